//! Bounds of the results of several points, from the least and the most of their parts.

use std::ops::Range;

use crate::batch::columns;
use crate::batch::serve::{LARGEST, SMALLEST};
use crate::numeric::lanes::LANES;

/// By how much bounds are wider than their parts make them, relatively: far above the rounding of the few operations of a
/// result (some 1e-15), far below any difference that matters.
const ROUNDING: f64 = 1e-12;

/// Columns whose bounds need not be wider, because points take them from tables as they are, or from one sum.
const EXACT: [usize; 6] = [
    columns::TTFT_S,
    columns::TPOT_S,
    columns::ENERGY_PREFILL_J,
    columns::MEMORY_BYTES_PER_GPU,
    columns::ENERGY_DECODE_STEP_J,
    columns::GPUS,
];

/// The least and the most of values.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Least.
    pub low: f64,
    /// Most.
    pub high: f64,
}

impl Span {
    pub(super) const NONE: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    pub(super) fn exact(value: f64) -> Self {
        Self { low: value, high: value }
    }

    fn join(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Of values; everything if any is no number.
    pub(super) fn of(values: &[f64]) -> Self {
        if values.iter().sum::<f64>().is_nan() {
            return Self { low: f64::NEG_INFINITY, high: f64::INFINITY };
        }
        values.iter().fold(Self::NONE, |span, value| span.join(Self::exact(*value)))
    }
}

/// Spans of blocks of [`LANES`] values, from which those of any range follow, a little too wide.
#[derive(Debug, Default)]
pub(super) struct Spans(Vec<Span>);

impl Spans {
    pub(super) fn fill(&mut self, values: &[f64]) {
        self.0.clear();
        self.0.extend(values.chunks(LANES).map(Span::of));
    }

    pub(super) fn over(&self, values: Range<usize>) -> Span {
        let blocks = values.start / LANES..values.end.div_ceil(LANES);
        self.0.get(blocks).unwrap_or(&[]).iter().fold(Span::NONE, |span, block| span.join(*block))
    }
}

/// Bounds of the results of several points, known before any of these is evaluated.
///
/// They come from sums and quotients of the least and the most of their parts, all positive, and are wider
/// than rounding could make the results themselves.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub(super) batch: f64,
    pub(super) gpus: f64,
    pub(super) output_tokens: Span,
    pub(super) ttft_s: Span,
    pub(super) tpot_s: Span,
    pub(super) prefill_j: Span,
    pub(super) step_j: Span,
    /// Memory of a GPU.
    pub memory_bytes: Span,
    /// What the GPU has.
    pub capacity_bytes: f64,
}

impl Bounds {
    /// Whether no point can be infeasible for results beyond what can be calculated with.
    pub fn finite(&self) -> bool {
        let within = |span: Span| span.low > SMALLEST && span.high < LARGEST;
        within(self.column(columns::LATENCY_S))
            && within(self.column(columns::ENERGY_J))
            && self.memory_bytes.high < LARGEST
    }

    /// The span of a result column; everything for those of causes.
    pub fn column(&self, column: usize) -> Span {
        let Self { batch, gpus, output_tokens, ttft_s, tpot_s, prefill_j, step_j, memory_bytes, .. } = *self;
        let steps = Span { low: output_tokens.low - 1.0, high: output_tokens.high - 1.0 };
        let total = |first: Span, each: Span| Span {
            low: first.low + steps.low * each.low,
            high: first.high + steps.high * each.high,
        };
        // Of the first token and all others, by token: the share of the first falls, that of the others rises.
        let per_token = |first: Span, each: Span| Span {
            low: first.low / output_tokens.high + (1.0 - 1.0 / output_tokens.low) * each.low,
            high: first.high / output_tokens.low + (1.0 - 1.0 / output_tokens.high) * each.high,
        };
        let over = |span: Span, divisor: f64| Span { low: span.low / divisor, high: span.high / divisor };
        let rate = || {
            let seconds = per_token(ttft_s, tpot_s);
            Span { low: batch / seconds.high, high: batch / seconds.low }
        };
        // A quotient of sums lies between the quotients of their parts.
        let power = || Span {
            low: (prefill_j.low / ttft_s.high).min(step_j.low / tpot_s.high),
            high: (prefill_j.high / ttft_s.low).max(step_j.high / tpot_s.low),
        };
        let span = match column {
            columns::LATENCY_S => total(ttft_s, tpot_s),
            columns::TTFT_S => ttft_s,
            columns::TPOT_S => tpot_s,
            columns::ENERGY_J => total(prefill_j, step_j),
            columns::ENERGY_PER_OUTPUT_TOKEN_J => over(per_token(prefill_j, step_j), batch),
            columns::ENERGY_PER_REQUEST_J => over(total(prefill_j, step_j), batch),
            columns::ENERGY_PREFILL_J => prefill_j,
            columns::ENERGY_DECODE_J => Span { low: steps.low * step_j.low, high: steps.high * step_j.high },
            columns::POWER_W_PER_GPU => over(power(), gpus),
            columns::OUTPUT_TOKENS_PER_S => rate(),
            columns::OUTPUT_TOKENS_PER_S_PER_GPU => over(rate(), gpus),
            columns::MEMORY_BYTES_PER_GPU => memory_bytes,
            columns::ENERGY_DECODE_STEP_J => step_j,
            columns::GPUS => Span::exact(gpus),
            _ => Span { low: f64::NEG_INFINITY, high: f64::INFINITY },
        };
        // Those of parts, and of their sums, are exact: rounding keeps the order of what it rounds.
        if EXACT.contains(&column) {
            return span;
        }
        Span { low: span.low - span.low.abs() * ROUNDING, high: span.high + span.high.abs() * ROUNDING }
    }
}
