//! A batch of requests: prefill, decode, and whether it fits.

use crate::cost::attention::visible;
use crate::cost::lanes::{LANES, Lane, ZERO, ceiling};
use crate::mapping::Mapping;
use crate::mesh::Reason;
use crate::step::{CAUSES, Passes, PhaseCost, PhaseView, Scratch, phase_cost};

/// Requests of each lane.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Sequences in the engine.
    pub batch: Lane,
    /// Prompt tokens of each.
    pub prompt_tokens: Lane,
    /// Output tokens of each.
    pub output_tokens: Lane,
}

/// Result columns, in order.
pub const COLUMNS: [&str; 14] = [
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
];

/// Number of result columns, those of causes included: 14, then prefill's causes, then decode's (of all steps).
pub const WIDTH: usize = COLUMNS.len() + 2 * CAUSES.len();

/// Sequences of a data-parallel rank up to which fixed seconds of decode are looked up.
const MOST_HELD: usize = 1024;

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

    /// Whether any joules by cause are in it.
    #[inline(always)]
    pub fn has_causes(self) -> bool {
        self.0 >> COLUMNS.len() != 0
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
pub fn column_names() -> Vec<String> {
    let causes = |phase: &'static str| CAUSES.iter().map(move |cause| format!("energy_{phase}_{cause}_j"));
    COLUMNS.iter().map(|name| (*name).to_owned()).chain(causes("prefill")).chain(causes("decode")).collect()
}

/// Results of a block of points: columns, of which those asked for are filled, and the reason of each lane as its code.
#[derive(Clone, Debug)]
pub struct Served {
    /// By column.
    pub columns: [Lane; WIDTH],
    /// By lane.
    pub reasons: [u64; LANES],
}

/// Prefill passes: as many prompts as the token budget takes, spread over the pipeline.
#[inline(always)]
pub fn prefill_passes(mapping: &Mapping, requests: &Requests) -> Passes {
    let mut passes = Passes {
        passes: ZERO,
        b: ZERO,
        fullest: ZERO,
        s: requests.prompt_tokens,
        t: requests.prompt_tokens,
        consecutive: true,
    };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    for i in 0..LANES {
        let held = ceiling(requests.batch[i] / dp);
        let budget = (mapping.constants.max_batched_tokens / requests.prompt_tokens[i]).floor();
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
pub fn context(requests: &Requests) -> Lane {
    let mut t = ZERO;
    for i in 0..LANES {
        let output = requests.output_tokens[i];
        t[i] = requests.prompt_tokens[i] + 0.5 * if output > 2.0 { output } else { 2.0 };
    }
    t
}

/// Decode passes: one for each pipeline stage, over a context of `t` tokens.
#[inline(always)]
pub fn decode_passes(mapping: &Mapping, batch: &Lane, t: &Lane) -> Passes {
    let mut passes = Passes { passes: ZERO, b: ZERO, fullest: ZERO, s: [1.0; LANES], t: *t, consecutive: false };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    for i in 0..LANES {
        let held = ceiling(batch[i] / dp);
        passes.passes[i] = if held < pp { held } else { pp };
        passes.b[i] = held / passes.passes[i];
    }
    passes
}

/// Prefill of a block of points: its cost, and the bytes of activations with those kept free.
#[inline(always)]
pub fn prefill(
    mapping: &Mapping,
    requests: &Requests,
    tables: bool,
    scratch: &mut Scratch,
    cost: &mut PhaseCost,
    activations: &mut Lane,
) {
    let passes = prefill_passes(mapping, requests);
    scratch.nothing_fixed(mapping);
    phase_cost(mapping, &mapping.prefill, &passes, tables, scratch, cost);
    let mut largest = ZERO;
    for (mask, polynomial) in &mapping.activations {
        let mask = mask.and_then(|m| mapping.prefill.masks.get(m)).copied();
        for i in 0..LANES {
            let (b, s, t) = (passes.fullest[i], passes.s[i], passes.t[i]);
            let st = s * visible(mask, s, t);
            let monomials = [1.0, b, s, b * s, t, b * t, st, b * st];
            let bytes = polynomial.at(&monomials);
            largest[i] = if bytes > largest[i] { bytes } else { largest[i] };
        }
    }
    for i in 0..LANES {
        activations[i] = largest[i] + mapping.constants.reserve_bytes;
    }
}

/// Puts the fixed seconds of decode into `scratch`; with `tables` they are looked up, with the same bits.
#[inline(always)]
pub fn fix_decode(mapping: &Mapping, batch: &Lane, tables: bool, scratch: &mut Scratch) {
    let dp = f64::from(mapping.mesh.dp);
    let mut held = ZERO;
    for i in 0..LANES {
        held[i] = ceiling(batch[i] / dp);
    }
    if !tables || held.iter().any(|held| *held > MOST_HELD as f64) {
        let passes = decode_passes(mapping, batch, &ZERO);
        scratch.fix(mapping, &mapping.decode, &passes, tables);
        return;
    }
    let table = mapping.decode.fixed.get_or_init(|| {
        let mut blocks = Vec::new();
        for first in (0..=MOST_HELD).step_by(LANES) {
            let held: Lane = std::array::from_fn(|i| dp * (first + i).max(1) as f64);
            scratch.fix(mapping, &mapping.decode, &decode_passes(mapping, &held, &ZERO), false);
            blocks.extend_from_slice(&scratch.fixed);
        }
        blocks
    });
    let kinds = mapping.kinds.len();
    scratch.fixed.resize(kinds, [ZERO; 2]);
    for (kind, bent) in scratch.fixed.iter_mut().enumerate() {
        for i in 0..LANES {
            let held = held[i] as usize;
            if let Some(row) = table.get(held / LANES * kinds + kind) {
                bent[0][i] = row[0][held % LANES];
                bent[1][i] = row[1][held % LANES];
            }
        }
    }
}

/// Decode of a block of points at contexts of `t` tokens, its fixed seconds in `scratch`.
#[inline(always)]
pub fn decode(mapping: &Mapping, batch: &Lane, t: &Lane, tables: bool, scratch: &mut Scratch, cost: &mut PhaseCost) {
    let passes = decode_passes(mapping, batch, t);
    phase_cost(mapping, &mapping.decode, &passes, tables, scratch, cost);
}

/// Bytes of weights and cache in the fullest stage, at requests of `length` tokens.
#[inline(always)]
pub fn held_bytes(mapping: &Mapping, batch: &Lane, length: &Lane) -> Lane {
    let dp = f64::from(mapping.mesh.dp);
    let mut fullest = ZERO;
    for kind in &mapping.kinds {
        let mut stage = ZERO;
        for (k, count) in kind.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (weights, cache) = (mapping.weights[k], mapping.caches[k]);
            for i in 0..LANES {
                let held = ceiling(batch[i] / dp);
                let kept = if length[i] < cache.window { length[i] } else { cache.window };
                stage[i] += count * (weights + held * kept * cache.bytes_per_token);
            }
        }
        for i in 0..LANES {
            fullest[i] = if stage[i] > fullest[i] { stage[i] } else { fullest[i] };
        }
    }
    fullest
}

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Working memory of a phase.
    pub scratch: Scratch,
    /// Prefill of the latest block.
    pub prefill: PhaseCost,
    /// Decode of the latest block.
    pub decode: PhaseCost,
    /// Results of the latest block.
    pub served: Served,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            scratch: Scratch::default(),
            prefill: PhaseCost::NONE,
            decode: PhaseCost::NONE,
            served: Served { columns: [ZERO; WIDTH], reasons: [0; LANES] },
        }
    }
}

/// Evaluates a block of points of one mapping; `tables` lets matrix products be looked up, with the same bits.
#[inline(always)]
pub fn serve(mapping: &Mapping, requests: &Requests, columns: Columns, tables: bool, workspace: &mut Workspace) {
    let Workspace { scratch, prefill: prompt, decode: step, served } = workspace;
    let mut activations = ZERO;
    prefill(mapping, requests, tables, scratch, prompt, &mut activations);
    fix_decode(mapping, &requests.batch, tables, scratch);
    decode(mapping, &requests.batch, &context(requests), tables, scratch, step);
    let mut length = ZERO;
    for i in 0..LANES {
        length[i] = requests.prompt_tokens[i] + requests.output_tokens[i];
    }
    let parts = Parts {
        batch: &requests.batch,
        output_tokens: &requests.output_tokens,
        prefill: prompt.view(),
        decode: step.view(),
        held: &held_bytes(mapping, &requests.batch, &length),
        activations: &activations,
    };
    fill(mapping, &parts, columns, served);
}

/// What the results of a block are made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Sequences.
    pub batch: &'a Lane,
    /// Output tokens.
    pub output_tokens: &'a Lane,
    /// Prefill.
    pub prefill: PhaseView<'a>,
    /// One decode step.
    pub decode: PhaseView<'a>,
    /// Bytes of weights and cache.
    pub held: &'a Lane,
    /// Bytes of activations, with those kept free.
    pub activations: &'a Lane,
}

/// Puts results together: the one place where columns are computed, whatever the schedule.
#[inline(always)]
pub fn fill(mapping: &Mapping, parts: &Parts, columns: Columns, served: &mut Served) {
    let gpus = f64::from(mapping.mesh.gpus());
    let Parts { batch, output_tokens, prefill, decode, held, activations } = *parts;
    let (mut latency, mut energy, mut decode_j, mut memory) = (ZERO, ZERO, ZERO, ZERO);
    for i in 0..LANES {
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
                for $i in 0..LANES {
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
        out[13] = [gpus; LANES];
    }
    if columns.has_causes() {
        for cause in 0..CAUSES.len() {
            for i in 0..LANES {
                let steps = output_tokens[i] - 1.0;
                out[COLUMNS.len() + cause][i] = prefill.joules[cause][i];
                out[COLUMNS.len() + CAUSES.len() + cause][i] = steps * decode.joules[cause][i];
            }
        }
    }
    let dp = f64::from(mapping.mesh.dp);
    let capacity = mapping.constants.capacity_bytes;
    for i in 0..LANES {
        let fits = if memory[i] > capacity { Reason::Memory as u64 } else { Reason::Ok as u64 };
        served.reasons[i] = if batch[i] < dp { Reason::Batch as u64 } else { fits };
    }
}
