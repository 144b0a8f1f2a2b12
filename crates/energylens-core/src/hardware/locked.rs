//! A GPU locked to a clock below its highest.

use super::clock::ClockRatio;
use super::collectives::Collectives;
use super::kernels::TimeSet;
use super::profile::Profile;

impl Profile {
    /// The same GPU locked to a clock; none if it cannot be locked to it (Eq. 11.3). Bandwidths, launches, the host and joules
    /// of HBM and links do not follow the clock.
    pub fn at_clock(&self, mhz: f64) -> Option<Self> {
        let (lowest, highest) = self.clock.range()?;
        if !(lowest..=highest).contains(&mhz) {
            return None;
        }
        let ClockRatio { clock: pace, voltage, waiting } = self.clock.lower(mhz, highest);
        let mut locked = self.clone();
        let peaks = &mut locked.compute.peak_flops;
        for peak in [&mut peaks.bf16, &mut peaks.vector].into_iter().chain(&mut peaks.fp8).chain(&mut peaks.fp4) {
            *peak *= pace;
        }
        let attention =
            locked.kernels.attention_prefill.values_mut().chain(locked.kernels.attention_decode.values_mut());
        attention.for_each(|set: &mut TimeSet| set.sequence_head_s /= pace);
        let energy = &mut locked.energy.flop_j;
        for joules in [&mut energy.bf16, &mut energy.vector].into_iter().chain(&mut energy.fp8).chain(&mut energy.fp4) {
            *joules *= voltage;
        }
        locked.energy.on_chip_j_per_byte *= voltage;
        locked.power.sequence_j *= voltage;
        locked.power.active_w *= voltage * pace;
        locked.power.communication_w *= voltage * pace;
        locked.power.static_w *= waiting;
        Some(locked)
    }

    /// Drops the coefficients of kernels and collectives, which take most of its memory, once times are derived from them.
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

    /// Bytes of memory it takes without kernels and collectives.
    pub fn clock_bytes(&self) -> usize {
        let rows = self.clock.voltage_mv.capacity() + self.clock.idle_w.capacity();
        self.name.capacity() + rows * size_of::<(f64, f64)>()
    }
}
