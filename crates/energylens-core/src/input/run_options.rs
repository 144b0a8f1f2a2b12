//! Run options: how a configuration runs, apart from its mesh and formats: overlap, sequence parallelism, fused norms, clock, power cap.

use std::hash::{Hash, Hasher};

use crate::phase::Phases;

/// Run options of a point (section 11 of the physics page); zero leaves an option out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Stages of overlap: 0 as the model's spec says, 1 none, else that many.
    pub overlap_stages: u16,
    /// SMs that overlapped collectives use.
    pub overlap_sms: u16,
    /// Phases in which kernels and collectives overlap.
    pub overlap_where: Phases,
    /// Reduce-scatter and all-gather in place of all-reduce, norms on a share of the tokens.
    pub sequence_parallel: bool,
    /// Norms inside the all-reduce before them.
    pub fused_norm: bool,
    /// Locked SM clock; 0 is none.
    pub sm_clock_mhz: u16,
    /// Cap on the watts of a GPU; 0 is none.
    pub power_cap_w: u16,
    /// How tokens choose experts: 0 as the model's spec says, else the position of a law in the plan, from 1 on.
    pub routing: u16,
    /// Which GPU holds which expert: code of a [`crate::routing::Placement`].
    pub placement: u16,
}

impl Running {
    /// Whether the point requests overlap, rather than leaving it to the spec or turning it off.
    pub fn overlaps(&self) -> bool {
        self.overlap_stages > 1
    }

    /// Whether a lock or a cap lowers the SM clock, besides the limit of the board.
    pub fn governed(&self) -> bool {
        self.sm_clock_mhz > 0 || self.power_cap_w > 0
    }

    /// Whether the measured serving runs behind the fits ran with these options.
    pub fn measured(&self) -> bool {
        *self == Self { overlap_stages: if self.overlaps() { 0 } else { self.overlap_stages }, ..Self::default() }
    }

    /// Whether the options of overlap fit together on a GPU of that many SMs.
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
