//! Result columns: their names and order, and sets of them.

use std::sync::LazyLock;

use crate::batch::phase::CAUSES;

/// Names the result columns, each with the constant that holds its position: a single table of both.
macro_rules! result_columns {
    ($($position:literal $constant:ident $name:literal $meaning:literal)*) => {
        $(
            #[doc = concat!("Position of `", $name, "`. ", $meaning)]
            pub const $constant: usize = $position;
        )*

        /// Names of the result columns, in order; those of joules by cause follow ([`column_names`]).
        pub const COLUMNS: [&str; [$($position),*].len()] = [$($name),*];

        #[cfg(test)]
        const POSITIONS: [(usize, &str); COLUMNS.len()] = [$(($position, $name)),*];
    };
}

#[rustfmt::skip]
result_columns! {
    0 LATENCY_S "latency_s" "Seconds from the first prompt token to the last output token (Eq. 9.1)."
    1 TTFT_S "ttft_s" "Seconds to the first output token (Eq. 8.7)."
    2 TPOT_S "tpot_s" "Seconds of a decode step (Eq. 8.8)."
    3 ENERGY_J "energy_j" "Joules of the batch (Eq. 9.1)."
    4 ENERGY_PER_OUTPUT_TOKEN_J "energy_per_output_token_j" "Joules of an output token (Eq. 9.2)."
    5 ENERGY_PER_REQUEST_J "energy_per_request_j" "Joules of a request."
    6 ENERGY_PREFILL_J "energy_prefill_j" "Joules of prefill."
    7 ENERGY_DECODE_J "energy_decode_j" "Joules of all decode steps."
    8 POWER_W_PER_GPU "power_w_per_gpu" "Mean watts of a GPU (Eq. 9.2)."
    9 OUTPUT_TOKENS_PER_S "output_tokens_per_s" "Output tokens per second of the engine (Eq. 9.2)."
    10 OUTPUT_TOKENS_PER_S_PER_GPU "output_tokens_per_s_per_gpu" "Output tokens per second of a GPU."
    11 MEMORY_BYTES_PER_GPU "memory_bytes_per_gpu" "Bytes of memory of the fullest GPU (Eq. 9.3)."
    12 ENERGY_DECODE_STEP_J "energy_decode_step_j" "Joules of one decode step (Eq. 8.9)."
    13 GPUS "gpus" "GPUs of the engine (Eq. 1.2)."
    14 ENERGY_LO_J "energy_lo_j" "Lower end of the interval of the joules (Eq. 10.2)."
    15 ENERGY_HI_J "energy_hi_j" "Upper end of the interval of the joules (Eq. 10.2)."
    16 EXTRAPOLATED "extrapolated" "1 outside the measurements behind the fits, else 0 (section 10)."
}

/// Number of all result columns: those of [`COLUMNS`], then joules of prefill by cause, then of all decode steps by cause.
pub const WIDTH: usize = DECODE_CAUSES + CAUSES.len();
/// Position of the first column of prefill's joules by cause.
pub const PREFILL_CAUSES: usize = COLUMNS.len();
/// Position of the first column of decode's joules by cause.
pub const DECODE_CAUSES: usize = PREFILL_CAUSES + CAUSES.len();

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
        self.0 >> COLUMNS.len() != 0 || self.has_interval()
    }

    /// Whether an end of the interval of the joules is in it.
    #[inline(always)]
    pub fn has_interval(self) -> bool {
        self.has(ENERGY_LO_J) || self.has(ENERGY_HI_J)
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

#[cfg(test)]
mod tests {
    use super::{COLUMNS, POSITIONS};

    #[test]
    fn constants_are_positions() {
        for (i, (position, name)) in POSITIONS.into_iter().enumerate() {
            assert_eq!((position, name), (i, COLUMNS[i]));
        }
    }
}
