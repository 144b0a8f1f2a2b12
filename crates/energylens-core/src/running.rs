//! How a configuration runs besides its mesh and formats: overlap, sequence parallelism, fused norms, clock, power cap.

use std::hash::{Hash, Hasher};

use serde::Deserialize;

use crate::hardware::profile::Profile;
use crate::plan::Phase;

/// Phases in which collectives are overlapped.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    /// Reading prompts.
    #[default]
    Prefill,
    /// Writing tokens.
    Decode,
    /// Both.
    Both,
}

impl Where {
    /// All, by code.
    pub const ALL: [(&'static str, Self); 3] =
        [("prefill", Self::Prefill), ("decode", Self::Decode), ("both", Self::Both)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Whether a phase is meant.
    pub fn meets(self, phase: Phase) -> bool {
        match self {
            Self::Prefill => phase == Phase::Prefill,
            Self::Decode => phase == Phase::Decode,
            Self::Both => true,
        }
    }
}

/// How a configuration runs; zero is "not asked for".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Stages of overlap: 0 leaves it to the spec, 1 is none.
    pub overlap_stages: u16,
    /// SMs of overlapped collectives.
    pub overlap_sms: u16,
    /// Where.
    pub overlap_where: Where,
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

    /// What the layout of a mapping depends on: of a cap beside no lower clock, that there is one, and whether it is
    /// below the limit of the board.
    pub fn laid_out(self, profile: &Profile) -> Self {
        let power_cap_w = match self.power_cap_w {
            0 => 0,
            _ if self.lowered(profile) => 0,
            watts if f64::from(watts) < profile.power.tdp_w => 1,
            _ => u16::MAX,
        };
        Self { power_cap_w, ..self }
    }

    /// Whether the SM clock is locked below the highest one.
    fn lowered(self, profile: &Profile) -> bool {
        self.sm_clock_mhz > 0 && f64::from(self.sm_clock_mhz) < profile.clock.max_mhz
    }

    /// The same, without what changes nothing on a GPU: a lock at its highest clock, a cap at the limit of its board,
    /// and any cap where no clocks are known, as points run as they would without it, or not at all.
    pub fn effective(self, profile: &Profile) -> Self {
        let capped = profile.clock.range().is_some() && f64::from(self.power_cap_w) < profile.power.tdp_w;
        Self {
            sm_clock_mhz: if self.lowered(profile) { self.sm_clock_mhz } else { 0 },
            power_cap_w: if capped { self.power_cap_w } else { 0 },
            ..self
        }
    }

    /// Whether serving runs behind the fits ran like this.
    pub fn measured(&self) -> bool {
        *self == Self { overlap_stages: if self.overlaps() { 0 } else { self.overlap_stages }, ..Self::default() }
    }

    /// Whether the values of overlap agree with one another on a GPU of that many SMs.
    pub fn agrees(&self, sms: u32) -> bool {
        match self.overlap_stages {
            0 | 1 => self.overlap_sms == 0 && self.overlap_where == Where::Prefill,
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
        assert!(with(0, 0, Where::Prefill) && with(1, 0, Where::Prefill) && with(4, 16, Where::Both));
        assert!(!with(4, 0, Where::Prefill) && !with(1, 16, Where::Prefill) && !with(1, 0, Where::Both));
        assert!(!with(4, 108, Where::Prefill));
    }
}
