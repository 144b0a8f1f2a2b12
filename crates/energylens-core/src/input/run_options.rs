//! How a configuration runs besides its mesh and formats: overlap, sequence parallelism, fused norms, clock, power cap.

use std::hash::{Hash, Hasher};

use crate::phase::Phases;

/// How a configuration runs; zero is "not asked for".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Stages of overlap: 0 leaves it to the spec, 1 is none.
    pub overlap_stages: u16,
    /// SMs of overlapped collectives.
    pub overlap_sms: u16,
    /// Where.
    pub overlap_where: Phases,
    /// Reduce-scatter and all-gather in place of all-reduce, norms on a share of the tokens.
    pub sequence_parallel: bool,
    /// Norms inside the all-reduce before them.
    pub fused_norm: bool,
    /// Locked SM clock.
    pub sm_clock_mhz: u16,
    /// Cap on the power of a GPU.
    pub power_cap_w: u16,
    /// How tokens choose experts: 0 leaves it to the spec, else a law of the plan, from 1 on.
    pub routing: u16,
    /// Which GPU holds which expert, by the code of a placement.
    pub placement: u16,
}

impl Running {
    /// Whether overlap was asked for, rather than left to the spec or declined.
    pub fn overlaps(&self) -> bool {
        self.overlap_stages > 1
    }

    /// Whether the SM clock is held down by more than the limit of the board.
    pub fn governed(&self) -> bool {
        self.sm_clock_mhz > 0 || self.power_cap_w > 0
    }

    /// What the layout of a mapping depends on: of a cap beside no lock, that there is one.
    pub fn laid_out(self) -> Self {
        Self { power_cap_w: u16::from(self.power_cap_w > 0 && self.sm_clock_mhz == 0), ..self }
    }

    /// Whether serving runs behind the fits ran like this.
    pub fn measured(&self) -> bool {
        *self == Self { overlap_stages: if self.overlaps() { 0 } else { self.overlap_stages }, ..Self::default() }
    }

    /// Whether the values of overlap agree with one another on a GPU of that many SMs.
    pub fn agrees(&self, sms: u32) -> bool {
        match self.overlap_stages {
            0 | 1 => self.overlap_sms == 0 && self.overlap_where == Phases::Prefill,
            _ => self.overlap_sms > 0 && u32::from(self.overlap_sms) < sms,
        }
    }
}

impl Hash for Running {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let wide = |value: u16, shift: u32| u64::from(value) << shift;
        let flags =
            u16::from(self.sequence_parallel) | u16::from(self.fused_norm) << 1 | (self.overlap_where as u16) << 2;
        state.write_u64(
            wide(self.overlap_stages, 0)
                | wide(self.overlap_sms, 12)
                | wide(flags, 24)
                | wide(self.sm_clock_mhz, 32)
                | wide(self.power_cap_w, 48),
        );
        state.write_u64(wide(self.routing, 0) | wide(self.placement, 16));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_needs_stages_and_sms() {
        let with = |overlap_stages, overlap_sms, overlap_where| {
            Running { overlap_stages, overlap_sms, overlap_where, ..Running::default() }.agrees(108)
        };
        assert!(with(0, 0, Phases::Prefill) && with(1, 0, Phases::Prefill) && with(4, 16, Phases::Both));
        assert!(!with(4, 0, Phases::Prefill) && !with(1, 16, Phases::Prefill) && !with(1, 0, Phases::Both));
        assert!(!with(4, 108, Phases::Prefill));
    }
}
