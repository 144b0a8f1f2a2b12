//! The two phases of serving a request: prefill reads its prompt, decode writes its output tokens.

use serde::Deserialize;

/// A phase of a request: what a step of the engine works on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reads all prompt tokens of a sequence at once.
    Prefill,
    /// Writes one output token of every sequence.
    Decode,
}

/// Phases in which something applies, such as overlap of kernels and collectives.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Phases {
    /// Prefill alone.
    #[default]
    Prefill,
    /// Decode alone.
    Decode,
    /// Both.
    Both,
}

impl Phases {
    /// All values with their names, in the order of their codes.
    pub const ALL: [(&'static str, Self); 3] =
        [("prefill", Self::Prefill), ("decode", Self::Decode), ("both", Self::Both)];

    /// Its name in a plan.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Whether a phase is among them.
    pub fn includes(self, phase: Phase) -> bool {
        match self {
            Self::Prefill => phase == Phase::Prefill,
            Self::Decode => phase == Phase::Decode,
            Self::Both => true,
        }
    }
}
