//! What the phases of a layout have that run options apply to.

/// Features of a phase, or of several together; options that apply to nothing are refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// An all-reduce over tp alone, which sequence parallelism would replace.
    pub reduced: bool,
    /// A norm that runs inside the all-reduce before it.
    pub fused: bool,
    /// Communication that runs at the same time as kernels, because the point asks for overlap.
    pub overlapped: bool,
    /// Micro-batches taking turns: one computes while the tokens of the other travel to their experts.
    pub turns: bool,
}

impl Features {
    /// Those that either has.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            reduced: self.reduced || other.reduced,
            fused: self.fused || other.fused,
            overlapped: self.overlapped || other.overlapped,
            turns: self.turns || other.turns,
        }
    }
}
