//! SM clocks: voltage and waiting power by clock, and a GPU locked to one.

use serde::Deserialize;

/// SM clocks of a GPU type.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Clock {
    /// Highest clock in MHz, at which everything was measured.
    #[serde(default)]
    pub max_mhz: f64,
    /// Rows of clock (MHz) and core voltage (mV).
    #[serde(default)]
    pub voltage_mv: Vec<(f64, f64)>,
    /// Rows of clock (MHz) and watts of a loaded GPU that waits.
    #[serde(default)]
    pub idle_w: Vec<(f64, f64)>,
}

/// A clock as a share of another, with the ratios of voltage and waiting power that follow (Eq. 11.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockRatio {
    /// Clock over the other.
    pub clock: f64,
    /// Squared voltage over that at the other clock: the ratio of joules of the same work.
    pub voltage: f64,
    /// Waiting power over that at the other clock.
    pub waiting: f64,
}

impl ClockRatio {
    /// The other clock itself.
    pub const SAME: Self = Self { clock: 1.0, voltage: 1.0, waiting: 1.0 };
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
    /// Lowest and highest clock that it can be locked to, in MHz; none without tables.
    pub fn range(&self) -> Option<(f64, f64)> {
        let lowest = [&self.voltage_mv, &self.idle_w].into_iter().filter_map(|table| table.first());
        lowest.map(|(mhz, _)| *mhz).reduce(f64::max).filter(|lowest| *lowest <= self.max_mhz).map(|f| (f, self.max_mhz))
    }

    /// Clocks of both tables below `mhz`, from the highest down, as ratios to it.
    pub fn below(&self, mhz: f64) -> Vec<ClockRatio> {
        let Some((lowest, _)) = self.range() else { return Vec::new() };
        let mut clocks: Vec<f64> = self.voltage_mv.iter().chain(&self.idle_w).map(|(f, _)| *f).collect();
        clocks.retain(|f| (lowest..mhz).contains(f));
        clocks.sort_by(|a, b| b.total_cmp(a));
        clocks.dedup();
        clocks.into_iter().map(|f| self.lower(f, mhz)).collect()
    }

    /// Ratios of a clock to another (Eq. 11.2).
    pub fn lower(&self, mhz: f64, over_mhz: f64) -> ClockRatio {
        let ratio = at(&self.voltage_mv, mhz) / at(&self.voltage_mv, over_mhz);
        let waiting = at(&self.idle_w, mhz) / at(&self.idle_w, over_mhz);
        ClockRatio { clock: mhz / over_mhz, voltage: ratio * ratio, waiting }
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
        let lower = ClockRatio { clock: 1000.0 / 1400.0, voltage: (700.0_f64 / 900.0).powi(2), waiting: 70.0 / 80.0 };
        assert_eq!(clock.below(1400.0), [lower]);
        assert_eq!(Clock::default().range(), None);
    }
}
