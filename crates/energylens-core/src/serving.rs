//! A batch of requests: prefill, decode, and whether it fits.

use crate::cost::attention::visible;
use crate::cost::lanes::{LANES, Lane, ZERO, ceiling};
use crate::mapping::Mapping;
use crate::mesh::Reason;
use crate::step::{CAUSES, Passes, PhaseCost, Scratch, phase_cost};

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

/// Results of a block of points: columns, and the reason of each lane.
#[derive(Clone, Debug)]
pub struct Served {
    /// By column.
    pub columns: [Lane; WIDTH],
    /// By lane.
    pub reasons: [Reason; LANES],
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

/// Decode passes: one for each pipeline stage, at the mean length of the context.
#[inline(always)]
pub fn decode_passes(mapping: &Mapping, requests: &Requests) -> Passes {
    let mut passes = Passes { passes: ZERO, b: ZERO, fullest: ZERO, s: [1.0; LANES], t: ZERO, consecutive: false };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    for i in 0..LANES {
        let held = ceiling(requests.batch[i] / dp);
        let output = requests.output_tokens[i];
        passes.passes[i] = if held < pp { held } else { pp };
        passes.b[i] = held / passes.passes[i];
        passes.t[i] = requests.prompt_tokens[i] + 0.5 * if output > 2.0 { output } else { 2.0 };
    }
    passes
}

#[inline(always)]
fn memory_bytes(mapping: &Mapping, requests: &Requests, prefill: &Passes, fullest: &mut Lane) {
    let mut largest = ZERO;
    for (mask, activations) in &mapping.activations {
        let mask = mask.and_then(|m| mapping.prefill.masks.get(m)).copied();
        for i in 0..LANES {
            let (b, s, t) = (prefill.fullest[i], prefill.s[i], prefill.t[i]);
            let st = s * visible(mask, s, t);
            let monomials = [1.0, b, s, b * s, t, b * t, st, b * st];
            let bytes = activations.at(&monomials);
            largest[i] = if bytes > largest[i] { bytes } else { largest[i] };
        }
    }
    let dp = f64::from(mapping.mesh.dp);
    *fullest = ZERO;
    for kind in &mapping.kinds {
        let mut stage = ZERO;
        for (k, count) in kind.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (weights, cache) = (mapping.weights[k], mapping.caches[k]);
            for i in 0..LANES {
                let held = ceiling(requests.batch[i] / dp);
                let length = requests.prompt_tokens[i] + requests.output_tokens[i];
                let kept = if length < cache.window { length } else { cache.window };
                stage[i] += count * (weights + held * kept * cache.bytes_per_token);
            }
        }
        for i in 0..LANES {
            fullest[i] = if stage[i] > fullest[i] { stage[i] } else { fullest[i] };
        }
    }
    for i in 0..LANES {
        fullest[i] += largest[i] + mapping.constants.reserve_bytes;
    }
}

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Workspace {
    scratch: Scratch,
    prefill: PhaseCost,
    decode: PhaseCost,
    memory: Lane,
    /// Results of the latest block.
    pub served: Served,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            scratch: Scratch::default(),
            prefill: PhaseCost::NONE,
            decode: PhaseCost::NONE,
            memory: ZERO,
            served: Served { columns: [ZERO; WIDTH], reasons: [Reason::Ok; LANES] },
        }
    }
}

/// Evaluates a block of points of one mapping; `tables` lets matrix products be looked up, with the same bits.
#[inline(always)]
pub fn serve(mapping: &Mapping, requests: &Requests, tables: bool, workspace: &mut Workspace) {
    let Workspace { scratch, prefill, decode, memory, served } = workspace;
    let passes = prefill_passes(mapping, requests);
    phase_cost(mapping, &mapping.prefill, &passes, tables, scratch, prefill);
    memory_bytes(mapping, requests, &passes, memory);
    let passes = decode_passes(mapping, requests);
    phase_cost(mapping, &mapping.decode, &passes, tables, scratch, decode);
    fill(served, mapping, requests, prefill, decode, memory);
}

#[inline(always)]
fn fill(
    served: &mut Served,
    mapping: &Mapping,
    requests: &Requests,
    prefill: &PhaseCost,
    decode: &PhaseCost,
    memory: &Lane,
) {
    let gpus = f64::from(mapping.mesh.gpus());
    let columns = &mut served.columns;
    for i in 0..LANES {
        let (batch, output) = (requests.batch[i], requests.output_tokens[i]);
        let steps = output - 1.0;
        let (ttft, tpot) = (prefill.elapsed_s[i], decode.elapsed_s[i]);
        let latency = ttft + steps * tpot;
        let decode_j = steps * decode.energy_j[i];
        let energy = prefill.energy_j[i] + decode_j;
        let tokens = batch * output;
        let tokens_per_s = tokens / latency;
        columns[0][i] = latency;
        columns[1][i] = ttft;
        columns[2][i] = tpot;
        columns[3][i] = energy;
        columns[4][i] = energy / tokens;
        columns[5][i] = energy / batch;
        columns[6][i] = prefill.energy_j[i];
        columns[7][i] = decode_j;
        columns[8][i] = energy / (latency * gpus);
        columns[9][i] = tokens_per_s;
        columns[10][i] = tokens_per_s / gpus;
        columns[11][i] = memory[i];
        columns[12][i] = decode.energy_j[i];
        columns[13][i] = gpus;
    }
    for cause in 0..CAUSES.len() {
        for i in 0..LANES {
            let steps = requests.output_tokens[i] - 1.0;
            columns[COLUMNS.len() + cause][i] = prefill.joules[cause][i];
            columns[COLUMNS.len() + CAUSES.len() + cause][i] = steps * decode.joules[cause][i];
        }
    }
    let dp = f64::from(mapping.mesh.dp);
    for i in 0..LANES {
        served.reasons[i] = if requests.batch[i] < dp {
            Reason::Batch
        } else if memory[i] > mapping.constants.capacity_bytes {
            Reason::Memory
        } else {
            Reason::Ok
        };
    }
}
