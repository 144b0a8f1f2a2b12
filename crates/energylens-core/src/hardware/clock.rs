//! SM clocks: voltage and waiting power by clock, and a GPU locked to one.

use serde::Deserialize;

use super::profile::{Collectives, Profile, TimeSet};
use crate::cost::power::Lower;

/// SM clocks of a GPU type.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Clock {
    /// Highest clock, at which everything was measured.
    #[serde(default)]
    pub max_mhz: f64,
    /// Core voltage by clock.
    #[serde(default)]
    pub voltage_mv: Vec<(f64, f64)>,
    /// Power of a loaded GPU that waits, by clock.
    #[serde(default)]
    pub idle_w: Vec<(f64, f64)>,
}

/// A table's value: linear between its rows, flat beyond them, 1 without rows.
fn at(table: &[(f64, f64)], mhz: f64) -> f64 {
    let above = table.partition_point(|(clock, _)| *clock < mhz);
    match (above.checked_sub(1).and_then(|below| table.get(below)), table.get(above)) {
        (Some(&(f0, v0)), Some(&(f1, v1))) => v0 + (v1 - v0) * (mhz - f0) / (f1 - f0),
        (Some(&(_, only)), None) | (None, Some(&(_, only))) => only,
        (None, None) => 1.0,
    }
}

impl Clock {
    /// Clocks it can be locked to, lowest and highest; none if nothing is known of them.
    pub fn range(&self) -> Option<(f64, f64)> {
        let lowest = [&self.voltage_mv, &self.idle_w].into_iter().filter_map(|table| table.first());
        lowest.map(|(mhz, _)| *mhz).reduce(f64::max).filter(|lowest| *lowest <= self.max_mhz).map(|f| (f, self.max_mhz))
    }

    /// Clocks of both tables below one, from the highest down.
    pub fn below(&self, mhz: f64) -> Vec<Lower> {
        let Some((lowest, _)) = self.range() else { return Vec::new() };
        let mut clocks: Vec<f64> = self.voltage_mv.iter().chain(&self.idle_w).map(|(f, _)| *f).collect();
        clocks.retain(|f| (lowest..mhz).contains(f));
        clocks.sort_by(|a, b| b.total_cmp(a));
        clocks.dedup();
        clocks.into_iter().map(|f| self.lower(f, mhz)).collect()
    }

    /// A clock over another.
    pub fn lower(&self, mhz: f64, over_mhz: f64) -> Lower {
        let ratio = at(&self.voltage_mv, mhz) / at(&self.voltage_mv, over_mhz);
        let waiting = at(&self.idle_w, mhz) / at(&self.idle_w, over_mhz);
        Lower { clock: mhz / over_mhz, voltage: ratio * ratio, waiting }
    }
}

impl Profile {
    /// The same GPU locked to a clock; none if it cannot be.
    pub fn at_clock(&self, mhz: f64) -> Option<Self> {
        let (lowest, highest) = self.clock.range()?;
        if !(lowest..=highest).contains(&mhz) {
            return None;
        }
        let Lower { clock: pace, voltage, waiting } = self.clock.lower(mhz, highest);
        let mut own = self.clone();
        let peaks = &mut own.compute.peak_flops;
        for peak in [&mut peaks.bf16, &mut peaks.vector].into_iter().chain(&mut peaks.fp8).chain(&mut peaks.fp4) {
            *peak *= pace;
        }
        let attention = own.kernels.attention_prefill.values_mut().chain(own.kernels.attention_decode.values_mut());
        attention.for_each(|set: &mut TimeSet| set.sequence_head_s /= pace);
        let energy = &mut own.energy.flop_j;
        for joules in [&mut energy.bf16, &mut energy.vector].into_iter().chain(&mut energy.fp8).chain(&mut energy.fp4) {
            *joules *= voltage;
        }
        own.energy.on_chip_j_per_byte *= voltage;
        own.power.sequence_j *= voltage;
        own.power.active_w *= voltage * pace;
        own.power.communication_w *= voltage * pace;
        own.power.static_w *= waiting;
        Some(own)
    }

    /// Leaves out what only the times of kernels and collectives come from, which takes most of its memory.
    pub fn forget_kernels(&mut self) {
        let kernels = &mut self.kernels;
        for sets in [
            &mut kernels.gemm,
            &mut kernels.grouped_gemm,
            &mut kernels.attention_prefill,
            &mut kernels.attention_decode,
        ] {
            sets.clear();
        }
        self.collectives = Collectives::default();
    }

    /// Bytes it takes without kernels and collectives.
    pub fn clock_bytes(&self) -> usize {
        let rows = self.clock.voltage_mv.capacity() + self.clock.idle_w.capacity();
        self.name.capacity() + rows * size_of::<(f64, f64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_linear_between_rows_and_flat_beyond() {
        let clock = Clock {
            max_mhz: 1400.0,
            voltage_mv: vec![(1000.0, 700.0), (1400.0, 900.0)],
            idle_w: vec![(600.0, 60.0), (1400.0, 80.0)],
        };
        assert_eq!([500.0, 1000.0, 1200.0, 1500.0].map(|f| at(&clock.voltage_mv, f)), [700.0, 700.0, 800.0, 900.0]);
        assert_eq!(clock.range(), Some((1000.0, 1400.0)));
        let lower = Lower { clock: 1000.0 / 1400.0, voltage: (700.0_f64 / 900.0).powi(2), waiting: 70.0 / 80.0 };
        assert_eq!(clock.below(1400.0), [lower]);
        assert_eq!(Clock::default().range(), None);
    }
}
