//! The two phases of serving a request: prefill reads its prompt, decode writes its output tokens.

use serde::Deserialize;

/// When a kernel runs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reading the prompt.
    Prefill,
    /// Writing one token a sequence.
    Decode,
}

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
