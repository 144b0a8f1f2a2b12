//! A batch of requests: prefill, decode, and whether it fits.

use crate::batch::phase::{CAUSES, Passes, PhaseCost, PhaseView, Scratch, phase_cost};
use crate::cost::attention::visible;
use crate::cost::program::{NONLINEAR_SUMS, Program};
use crate::hardware::uncertainty::Range;
use crate::lowering::mapping::Mapping;
use crate::lowering::mesh::Reason;
use crate::numeric::lanes::{LANES, Lane, ceiling};
use crate::numeric::simd::{self, Level, Work};

pub use crate::batch::columns::{COLUMNS, Columns, WIDTH, column_names};

/// Requests of each lane.
#[derive(Clone, Debug)]
pub struct Requests<const L: usize = LANES> {
    /// Sequences in the engine.
    pub batch: Lane<L>,
    /// Prompt tokens of each.
    pub prompt_tokens: Lane<L>,
    /// Output tokens of each.
    pub output_tokens: Lane<L>,
}

/// Deviations to either side of the mean between which four values in five of a normal distribution lie.
const EIGHTY_PERCENT: f64 = 1.281_551_565_544_6;

/// Seconds, joules and bytes below this and above its inverse can be calculated with: squares and quotients are finite.
pub const LARGEST: f64 = 1e140;
/// Its inverse.
pub const SMALLEST: f64 = 1e-140;

/// Sequences of a data-parallel rank up to which fixed seconds of decode are looked up.
const MOST_HELD: usize = 1024;
const HELD_ROW: usize = MOST_HELD + LANES;

/// Results of a block of points: columns, of which those asked for are filled, and the reason of each lane as its code.
#[derive(Clone, Debug)]
pub struct Served<const L: usize = LANES> {
    /// By column.
    pub columns: [Lane<L>; WIDTH],
    /// By lane.
    pub reasons: [u64; L],
}

/// Prefill passes: as many prompts as the token budget takes, spread over the pipeline.
#[inline(always)]
pub fn prefill_passes<const L: usize>(mapping: &Mapping, requests: &Requests<L>) -> Passes<L> {
    let mut passes = Passes {
        passes: [0.0; L],
        b: [0.0; L],
        fullest: [0.0; L],
        s: requests.prompt_tokens,
        t: requests.prompt_tokens,
        consecutive: true,
    };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    let cp = f64::from(mapping.mesh.cp);
    for i in 0..L {
        let held = ceiling(requests.batch[i] / dp);
        let budget = (mapping.constants.max_batched_tokens * cp / requests.prompt_tokens[i]).floor();
        let budget = if budget > 1.0 { budget } else { 1.0 };
        let spread = ceiling(held / pp);
        let together = if spread < budget { spread } else { budget };
        passes.fullest[i] = together;
        passes.passes[i] = ceiling(held / together);
        passes.b[i] = held / passes.passes[i];
    }
    passes
}

/// Mean length of the context in decode.
#[inline(always)]
pub fn context<const L: usize>(requests: &Requests<L>) -> Lane<L> {
    let mut t = [0.0; L];
    for i in 0..L {
        let output = requests.output_tokens[i];
        t[i] = requests.prompt_tokens[i] + 0.5 * if output > 2.0 { output } else { 2.0 };
    }
    t
}

/// Decode passes: one for each pipeline stage, over a context of `t` tokens.
#[inline(always)]
pub fn decode_passes<const L: usize>(mapping: &Mapping, batch: &Lane<L>, t: &Lane<L>) -> Passes<L> {
    let mut passes =
        Passes { passes: [0.0; L], b: [0.0; L], fullest: [0.0; L], s: [1.0; L], t: *t, consecutive: false };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    for i in 0..L {
        let held = ceiling(batch[i] / dp);
        passes.passes[i] = if held < pp { held } else { pp };
        passes.b[i] = held / passes.passes[i];
    }
    passes
}

/// What a phase is asked for.
enum Asked<'a, const L: usize> {
    Prefill(&'a Requests<L>),
    Decode { batch: &'a Lane<L>, t: &'a Lane<L> },
}

/// One phase of a block of points. Both phases share it, so that there is but one copy for each instruction set.
struct OnePhase<'a, const L: usize> {
    mapping: &'a Mapping,
    asked: Asked<'a, L>,
    tables: bool,
    scratch: &'a mut Scratch<L>,
    cost: &'a mut PhaseCost<L>,
}

impl<const L: usize> Work for OnePhase<'_, L> {
    #[inline(always)]
    fn run(self) {
        let Self { mapping, asked, tables, scratch, cost } = self;
        let (phase, passes) = match asked {
            Asked::Prefill(requests) => (&mapping.prefill, prefill_passes(mapping, requests)),
            Asked::Decode { batch, t } => (&mapping.decode, decode_passes(mapping, batch, t)),
        };
        scratch.fullest = passes.fullest;
        phase_cost(mapping, phase, &passes, tables, scratch, cost);
    }
}

/// Bytes of activations in the fullest prefill pass, with those kept free.
struct Activations<'a, const L: usize> {
    mapping: &'a Mapping,
    fullest: &'a Lane<L>,
    prompt_tokens: &'a Lane<L>,
    bytes: &'a mut Lane<L>,
}

impl<const L: usize> Work for Activations<'_, L> {
    #[inline(always)]
    fn run(self) {
        let mut largest = [0.0; L];
        let share = 1.0 / f64::from(self.mapping.mesh.cp);
        for (mask, polynomial) in &self.mapping.activations {
            let mask = mask.and_then(|m| self.mapping.prefill.masks.get(m)).copied();
            for i in 0..L {
                let (b, s, t) = (self.fullest[i], self.prompt_tokens[i], self.prompt_tokens[i]);
                let (s, pairs) = (s * share, s * share * visible(mask, s, t));
                let monomials = [1.0, b, s, b * s, t, b * t, pairs, b * pairs];
                let bytes = polynomial.at(&monomials);
                largest[i] = if bytes > largest[i] { bytes } else { largest[i] };
            }
        }
        for i in 0..L {
            self.bytes[i] = largest[i] + self.mapping.constants.reserve_bytes;
        }
    }
}

/// Prefill of a block of points: its cost, and the bytes of activations with those kept free.
pub fn prefill<const L: usize>(
    level: Level,
    mapping: &Mapping,
    requests: &Requests<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
    cost: &mut PhaseCost<L>,
    bytes: &mut Lane<L>,
) {
    simd::run(level, OnePhase { mapping, asked: Asked::Prefill(requests), tables, scratch: &mut *scratch, cost });
    let prompt_tokens = &requests.prompt_tokens;
    simd::run(level, Activations { mapping, fullest: &scratch.fullest, prompt_tokens, bytes });
}

/// Fixed seconds of decode, evaluated.
struct Fix<'a, const L: usize> {
    mapping: &'a Mapping,
    batch: &'a Lane<L>,
    scratch: &'a mut Scratch<L>,
}

impl<const L: usize> Work for Fix<'_, L> {
    #[inline(always)]
    fn run(self) {
        let passes = decode_passes(self.mapping, self.batch, &[0.0; L]);
        self.scratch.fix(self.mapping, &self.mapping.decode, &passes, false);
    }
}

/// Bytes of the table of fixed seconds of decode.
pub(crate) fn fixed_bytes(program: &Program, kinds: usize) -> usize {
    program.nonlinear_sums() * kinds * HELD_ROW * size_of::<f64>()
}

/// Puts the fixed seconds of decode into `scratch`; with `tables` they are looked up, with the same bits.
pub fn fix_decode<const L: usize>(
    level: Level,
    mapping: &Mapping,
    batch: &Lane<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
) {
    let dp = f64::from(mapping.mesh.dp);
    let mut held = [0.0; L];
    for i in 0..L {
        held[i] = ceiling(batch[i] / dp);
    }
    if !tables || held.iter().any(|held| *held > MOST_HELD as f64) {
        return simd::run(level, Fix { mapping, batch, scratch });
    }
    let (kinds, nonlinear_sums) = (mapping.kinds.len(), mapping.decode.program.nonlinear_sums());
    let table = mapping.decode.fixed.get_or_init(|| {
        let mut table = vec![0.0; nonlinear_sums * kinds * HELD_ROW];
        for first in (0..=MOST_HELD).step_by(L) {
            let batch: Lane<L> = std::array::from_fn(|i| dp * (first + i).max(1) as f64);
            simd::run(level, Fix { mapping, batch: &batch, scratch: &mut *scratch });
            for (row, lane) in
                table.chunks_mut(HELD_ROW).zip(scratch.fixed.iter().flat_map(|own| own.iter().take(nonlinear_sums)))
            {
                row[first..first + L].copy_from_slice(lane);
            }
        }
        table
    });
    scratch.fixed.resize(kinds, [[0.0; L]; NONLINEAR_SUMS]);
    let lanes = scratch.fixed.iter_mut().flat_map(|own| own.iter_mut().take(nonlinear_sums));
    for (row, lane) in table.chunks(HELD_ROW).zip(lanes) {
        for i in 0..L {
            lane[i] = row[(held[i] as usize).min(HELD_ROW - 1)];
        }
    }
}

/// Decode of a block of points at contexts of `t` tokens, its fixed seconds in `scratch`.
pub fn decode<const L: usize>(
    level: Level,
    mapping: &Mapping,
    batch: &Lane<L>,
    t: &Lane<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
    cost: &mut PhaseCost<L>,
) {
    simd::run(level, OnePhase { mapping, asked: Asked::Decode { batch, t }, tables, scratch, cost });
}

/// Bytes of weights and cache in the fullest stage, at requests of `length` tokens.
#[inline(always)]
pub fn held_bytes<const L: usize>(mapping: &Mapping, batch: &Lane<L>, length: &Lane<L>) -> Lane<L> {
    let (dp, cp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.cp));
    let mut fullest = [0.0; L];
    for kind in &mapping.kinds {
        let mut stage = [0.0; L];
        for (k, count) in kind.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (weights, cache) = (mapping.weights[k], mapping.caches[k]);
            for i in 0..L {
                let held = ceiling(batch[i] / dp);
                let kept = if length[i] < cache.window { length[i] } else { cache.window };
                stage[i] += count * (weights + held * kept * cache.bytes_per_token / cp);
            }
        }
        for i in 0..L {
            fullest[i] = if stage[i] > fullest[i] { stage[i] } else { fullest[i] };
        }
    }
    fullest
}

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Workspace<const L: usize = LANES> {
    /// Working memory of a phase.
    pub scratch: Scratch<L>,
    /// Prefill of the latest block.
    pub prefill: PhaseCost<L>,
    /// Decode of the latest block.
    pub decode: PhaseCost<L>,
    /// Results of the latest block.
    pub served: Served<L>,
}

impl<const L: usize> Default for Workspace<L> {
    fn default() -> Self {
        Self {
            scratch: Scratch::default(),
            prefill: PhaseCost::NONE,
            decode: PhaseCost::NONE,
            served: Served { columns: [[0.0; L]; WIDTH], reasons: [0; L] },
        }
    }
}

/// The last step of a block: memory, and results put together.
struct Finish<'a, const L: usize> {
    mapping: &'a Mapping,
    requests: &'a Requests<L>,
    activations: &'a Lane<L>,
    columns: Columns,
    prefill: PhaseView<'a, L>,
    decode: PhaseView<'a, L>,
    served: &'a mut Served<L>,
}

impl<const L: usize> Work for Finish<'_, L> {
    #[inline(always)]
    fn run(self) {
        let Requests { batch, prompt_tokens, output_tokens } = self.requests;
        let mut length = [0.0; L];
        for i in 0..L {
            length[i] = prompt_tokens[i] + output_tokens[i];
        }
        let parts = Parts {
            batch,
            prompt_tokens,
            output_tokens,
            prefill: self.prefill,
            decode: self.decode,
            held: &held_bytes(self.mapping, batch, &length),
            activations: self.activations,
        };
        fill(self.mapping, &parts, self.columns, self.served);
    }
}

/// Evaluates a block of points of one mapping; `tables` lets matrix products be looked up, with the same bits.
pub fn serve<const L: usize>(
    level: Level,
    mapping: &Mapping,
    requests: &Requests<L>,
    columns: Columns,
    tables: bool,
    workspace: &mut Workspace<L>,
) {
    let Workspace { scratch, prefill: prompt, decode: step, served } = workspace;
    let mut activations = [0.0; L];
    prefill(level, mapping, requests, tables, scratch, prompt, &mut activations);
    fix_decode(level, mapping, &requests.batch, tables, scratch);
    decode(level, mapping, &requests.batch, &context(requests), tables, scratch, step);
    let (prefill, decode) = (prompt.view(), step.view());
    simd::run(level, Finish { mapping, requests, activations: &activations, columns, prefill, decode, served });
}

/// What the results of a block are made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a, const L: usize = LANES> {
    /// Sequences.
    pub batch: &'a Lane<L>,
    /// Prompt tokens.
    pub prompt_tokens: &'a Lane<L>,
    /// Output tokens.
    pub output_tokens: &'a Lane<L>,
    /// Prefill.
    pub prefill: PhaseView<'a, L>,
    /// One decode step.
    pub decode: PhaseView<'a, L>,
    /// Bytes of weights and cache.
    pub held: &'a Lane<L>,
    /// Bytes of activations, with those kept free.
    pub activations: &'a Lane<L>,
}

/// Puts results together: the one place where columns are computed, whatever the schedule.
#[inline(always)]
pub fn fill<const L: usize>(mapping: &Mapping, parts: &Parts<L>, columns: Columns, served: &mut Served<L>) {
    let gpus = f64::from(mapping.mesh.gpus());
    let Parts { batch, prompt_tokens, output_tokens, prefill, decode, held, activations } = *parts;
    let (mut latency, mut energy, mut decode_j, mut memory) = ([0.0; L], [0.0; L], [0.0; L], [0.0; L]);
    for i in 0..L {
        let steps = output_tokens[i] - 1.0;
        latency[i] = prefill.elapsed_s[i] + steps * decode.elapsed_s[i];
        decode_j[i] = steps * decode.energy_j[i];
        energy[i] = prefill.energy_j[i] + decode_j[i];
        memory[i] = held[i] + activations[i];
    }
    let out = &mut served.columns;
    macro_rules! column {
        ($column:literal, $i:ident => $value:expr) => {
            if columns.has($column) {
                for $i in 0..L {
                    out[$column][$i] = $value;
                }
            }
        };
    }
    column!(0, i => latency[i]);
    column!(1, i => prefill.elapsed_s[i]);
    column!(2, i => decode.elapsed_s[i]);
    column!(3, i => energy[i]);
    column!(4, i => energy[i] / (batch[i] * output_tokens[i]));
    column!(5, i => energy[i] / batch[i]);
    column!(6, i => prefill.energy_j[i]);
    column!(7, i => decode_j[i]);
    column!(8, i => energy[i] / (latency[i] * gpus));
    column!(9, i => batch[i] * output_tokens[i] / latency[i]);
    column!(10, i => batch[i] * output_tokens[i] / latency[i] / gpus);
    column!(11, i => memory[i]);
    column!(12, i => decode.energy_j[i]);
    if columns.has(13) {
        out[13] = [gpus; L];
    }
    if columns.has(14) || columns.has(15) || columns.has(16) {
        let Range { batch: most, context_tokens: longest, .. } = mapping.constants.range;
        let mut beyond = [0.0; L];
        for i in 0..L {
            let within = batch[i] <= most && prompt_tokens[i] + output_tokens[i] <= longest;
            beyond[i] = if within { 0.0 } else { 1.0 };
        }
        out[16] = beyond;
        let mut variance = [0.0; L];
        for (cause, relative) in mapping.constants.cause_variance.iter().enumerate() {
            for i in 0..L {
                let joules = prefill.joules[cause][i] + (output_tokens[i] - 1.0) * decode.joules[cause][i];
                variance[i] += relative * (joules * joules);
            }
        }
        for i in 0..L {
            let deviation = (variance[i] + mapping.constants.common_variance * (energy[i] * energy[i])).sqrt();
            let spread = EIGHTY_PERCENT * deviation * (1.0 + beyond[i]);
            out[14][i] = energy[i] * (energy[i] / (energy[i] + spread));
            out[15][i] = energy[i] + spread;
        }
    }
    if columns.has_causes() {
        for cause in 0..CAUSES.len() {
            for i in 0..L {
                let steps = output_tokens[i] - 1.0;
                out[COLUMNS.len() + cause][i] = prefill.joules[cause][i];
                out[COLUMNS.len() + CAUSES.len() + cause][i] = steps * decode.joules[cause][i];
            }
        }
    }
    let dp = f64::from(mapping.mesh.dp);
    let capacity = mapping.constants.capacity_bytes;
    for i in 0..L {
        let within = |value: f64| value > SMALLEST && value < LARGEST;
        let finite = within(latency[i]) & within(energy[i]) & (memory[i] < LARGEST);
        let runs = if finite { Reason::Ok as u64 } else { Reason::Overflow as u64 };
        let slowed = prefill.elapsed_s[i] == f64::INFINITY || decode.elapsed_s[i] == f64::INFINITY;
        let runs = if slowed && mapping.most_w.is_some() { Reason::Power as u64 } else { runs };
        let fits = if memory[i] > capacity { Reason::Memory as u64 } else { runs };
        served.reasons[i] = if batch[i] < dp { Reason::Batch as u64 } else { fits };
    }
}
