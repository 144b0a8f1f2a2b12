//! The results of a block of points, column by column: the only place where they are computed, whatever the schedule.

use crate::batch::columns::{self, Columns, WIDTH};
use crate::batch::phase::{CAUSES, PhaseView};
use crate::hardware::uncertainty::Range;
use crate::lowering::mapping::Mapping;
use crate::lowering::mesh::Reason;
use crate::numeric::lanes::{LANES, Lane};

/// Standard deviations to either side of the mean that hold four values in five of a normal distribution.
const EIGHTY_PERCENT: f64 = 1.281_551_565_544_6;

/// Upper bound of seconds, joules and bytes that can be calculated with: squares and quotients of them are finite.
pub const LARGEST: f64 = 1e140;
/// Lower bound of seconds and joules that can be calculated with.
pub const SMALLEST: f64 = 1e-140;

/// Results of a block of points.
#[derive(Clone, Debug)]
pub struct Served<const L: usize = LANES> {
    /// Values by column; those of columns that were not requested are stale.
    pub columns: [Lane<L>; WIDTH],
    /// Code of the reason why a point cannot run, by lane; [`Reason::Ok`] if it can.
    pub reasons: [u64; L],
}

/// What the results of a block of points are computed from.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a, const L: usize = LANES> {
    /// Sequences of the engine.
    pub batch: &'a Lane<L>,
    /// Prompt tokens of each sequence.
    pub prompt_tokens: &'a Lane<L>,
    /// Output tokens of each sequence.
    pub output_tokens: &'a Lane<L>,
    /// Cost of prefill.
    pub prefill: PhaseView<'a, L>,
    /// Cost of one decode step.
    pub decode: PhaseView<'a, L>,
    /// Bytes of weights and KV cache of a GPU.
    pub held: &'a Lane<L>,
    /// Bytes of activations of a GPU, with those that are reserved.
    pub activations: &'a Lane<L>,
}

/// Sums over prefill and all decode steps.
struct Sums<const L: usize> {
    latency_s: Lane<L>,
    energy_j: Lane<L>,
    decode_j: Lane<L>,
    memory_bytes: Lane<L>,
}

/// Fills the requested columns and the reasons of a block of points.
#[inline(always)]
pub fn fill<const L: usize>(mapping: &Mapping, parts: &Parts<L>, columns: Columns, served: &mut Served<L>) {
    let sums = Sums::of(parts);
    fill_main(mapping, parts, &sums, columns, &mut served.columns);
    if columns.has_interval() || columns.has(columns::EXTRAPOLATED) {
        fill_interval(mapping, parts, &sums.energy_j, &mut served.columns);
    }
    if columns.has_causes() {
        fill_causes(parts, &mut served.columns);
    }
    fill_reasons(mapping, parts, &sums, &mut served.reasons);
}

impl<const L: usize> Sums<L> {
    /// Eq. 9.1, and the left side of Eq. 9.3.
    #[inline(always)]
    fn of(parts: &Parts<L>) -> Self {
        let Parts { output_tokens, prefill, decode, held, activations, .. } = *parts;
        let mut sums = Self { latency_s: [0.0; L], energy_j: [0.0; L], decode_j: [0.0; L], memory_bytes: [0.0; L] };
        for i in 0..L {
            let steps = output_tokens[i] - 1.0;
            sums.latency_s[i] = prefill.elapsed_s[i] + steps * decode.elapsed_s[i];
            sums.decode_j[i] = steps * decode.energy_j[i];
            sums.energy_j[i] = prefill.energy_j[i] + sums.decode_j[i];
            sums.memory_bytes[i] = held[i] + activations[i];
        }
        sums
    }
}

/// Columns but the interval of the joules and the joules by cause (Eq. 9.2).
#[inline(always)]
fn fill_main<const L: usize>(
    mapping: &Mapping,
    parts: &Parts<L>,
    sums: &Sums<L>,
    columns: Columns,
    out: &mut [Lane<L>; WIDTH],
) {
    let gpus = f64::from(mapping.mesh.gpus());
    let Parts { batch, output_tokens, prefill, decode, .. } = *parts;
    let Sums { latency_s, energy_j, decode_j, memory_bytes } = sums;
    macro_rules! column {
        ($column:ident, $i:ident => $value:expr) => {
            if columns.has(columns::$column) {
                for $i in 0..L {
                    out[columns::$column][$i] = $value;
                }
            }
        };
    }
    column!(LATENCY_S, i => latency_s[i]);
    column!(TTFT_S, i => prefill.elapsed_s[i]);
    column!(TPOT_S, i => decode.elapsed_s[i]);
    column!(ENERGY_J, i => energy_j[i]);
    column!(ENERGY_PER_OUTPUT_TOKEN_J, i => energy_j[i] / (batch[i] * output_tokens[i]));
    column!(ENERGY_PER_REQUEST_J, i => energy_j[i] / batch[i]);
    column!(ENERGY_PREFILL_J, i => prefill.energy_j[i]);
    column!(ENERGY_DECODE_J, i => decode_j[i]);
    column!(POWER_W_PER_GPU, i => energy_j[i] / (latency_s[i] * gpus));
    column!(OUTPUT_TOKENS_PER_S, i => batch[i] * output_tokens[i] / latency_s[i]);
    column!(OUTPUT_TOKENS_PER_S_PER_GPU, i => batch[i] * output_tokens[i] / latency_s[i] / gpus);
    column!(MEMORY_BYTES_PER_GPU, i => memory_bytes[i]);
    column!(ENERGY_DECODE_STEP_J, i => decode.energy_j[i]);
    column!(GPUS, i => gpus);
}

/// Whether points lie outside the measurements, and the interval of their joules, twice as wide if they do (Eq. 10.1, 10.2).
#[inline(always)]
fn fill_interval<const L: usize>(mapping: &Mapping, parts: &Parts<L>, energy_j: &Lane<L>, out: &mut [Lane<L>; WIDTH]) {
    let Parts { batch, prompt_tokens, output_tokens, prefill, decode, .. } = *parts;
    let Range { batch: largest_batch, context_tokens, .. } = mapping.constants.range;
    let mut extrapolated = [0.0; L];
    for i in 0..L {
        let within = batch[i] <= largest_batch && prompt_tokens[i] + output_tokens[i] <= context_tokens;
        extrapolated[i] = if within { 0.0 } else { 1.0 };
    }
    out[columns::EXTRAPOLATED] = extrapolated;
    let mut variance = [0.0; L];
    for (cause, relative) in mapping.constants.cause_variance.iter().enumerate() {
        for i in 0..L {
            let joules = prefill.joules[cause][i] + (output_tokens[i] - 1.0) * decode.joules[cause][i];
            variance[i] += relative * (joules * joules);
        }
    }
    for i in 0..L {
        let deviation = (variance[i] + mapping.constants.common_variance * (energy_j[i] * energy_j[i])).sqrt();
        let spread = EIGHTY_PERCENT * deviation * (1.0 + extrapolated[i]);
        out[columns::ENERGY_LO_J][i] = energy_j[i] * (energy_j[i] / (energy_j[i] + spread));
        out[columns::ENERGY_HI_J][i] = energy_j[i] + spread;
    }
}

/// Joules of prefill and of all decode steps by cause.
#[inline(always)]
fn fill_causes<const L: usize>(parts: &Parts<L>, out: &mut [Lane<L>; WIDTH]) {
    let Parts { output_tokens, prefill, decode, .. } = *parts;
    for cause in 0..CAUSES.len() {
        for i in 0..L {
            let steps = output_tokens[i] - 1.0;
            out[columns::PREFILL_CAUSES + cause][i] = prefill.joules[cause][i];
            out[columns::DECODE_CAUSES + cause][i] = steps * decode.joules[cause][i];
        }
    }
}

/// The first reason why a point cannot run, in the order of the physics page (section 1): too few sequences, memory, then a
/// power cap or results that cannot be calculated with.
#[inline(always)]
fn fill_reasons<const L: usize>(mapping: &Mapping, parts: &Parts<L>, sums: &Sums<L>, reasons: &mut [u64; L]) {
    let Parts { batch, prefill, decode, .. } = *parts;
    let dp = f64::from(mapping.mesh.dp);
    let capacity_bytes = mapping.constants.capacity_bytes;
    for i in 0..L {
        let within = |value: f64| value > SMALLEST && value < LARGEST;
        let finite = within(sums.latency_s[i]) & within(sums.energy_j[i]) & (sums.memory_bytes[i] < LARGEST);
        let runs = if finite { Reason::Ok as u64 } else { Reason::Overflow as u64 };
        let slowed = prefill.elapsed_s[i] == f64::INFINITY || decode.elapsed_s[i] == f64::INFINITY;
        let runs = if slowed && mapping.most_w.is_some() { Reason::Power as u64 } else { runs };
        let fits = if sums.memory_bytes[i] > capacity_bytes { Reason::Memory as u64 } else { runs };
        reasons[i] = if batch[i] < dp { Reason::Batch as u64 } else { fits };
    }
}
