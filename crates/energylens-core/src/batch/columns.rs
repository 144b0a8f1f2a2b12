//! Result columns: their names and order, and sets of them.

use std::sync::LazyLock;

use crate::batch::phase::CAUSES;

/// Result columns, in order.
pub const COLUMNS: [&str; 17] = [
    "latency_s",
    "ttft_s",
    "tpot_s",
    "energy_j",
    "energy_per_output_token_j",
    "energy_per_request_j",
    "energy_prefill_j",
    "energy_decode_j",
    "power_w_per_gpu",
    "output_tokens_per_s",
    "output_tokens_per_s_per_gpu",
    "memory_bytes_per_gpu",
    "energy_decode_step_j",
    "gpus",
    "energy_lo_j",
    "energy_hi_j",
    "extrapolated",
];

/// Number of result columns, those of causes included: 17, then prefill's causes, then decode's (of all steps).
pub const WIDTH: usize = COLUMNS.len() + 2 * CAUSES.len();

/// A set of result columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns(u32);

impl Columns {
    /// All of them.
    pub const ALL: Self = Self((1 << WIDTH) - 1);

    /// The first `width` columns.
    pub fn first(width: usize) -> Self {
        (0..width.min(WIDTH)).collect()
    }

    /// Whether a column is in it.
    #[inline(always)]
    pub fn has(self, column: usize) -> bool {
        self.0 >> column & 1 == 1
    }

    /// Whether any joules by cause are in it, or made from them.
    #[inline(always)]
    pub fn has_causes(self) -> bool {
        self.0 >> COLUMNS.len() != 0 || self.has(14) || self.has(15)
    }

    /// The columns, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..WIDTH).filter(move |column| self.has(*column))
    }
}

impl FromIterator<usize> for Columns {
    fn from_iter<I: IntoIterator<Item = usize>>(columns: I) -> Self {
        Self(columns.into_iter().filter(|column| *column < WIDTH).fold(0, |set, column| set | 1 << column))
    }
}

/// Name of every result column: the main ones, then joules by phase and cause.
pub fn column_names() -> &'static [String] {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let causes = |phase: &'static str| CAUSES.iter().map(move |cause| format!("energy_{phase}_{cause}_j"));
        COLUMNS.iter().map(|name| (*name).to_owned()).chain(causes("prefill")).chain(causes("decode")).collect()
    });
    &NAMES
}
