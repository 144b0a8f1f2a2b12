//! A batch of requests: prefill, decode, and whether it fits.

use crate::cost::lanes::{LANES, Lane, ZERO, ceiling};
use crate::mapping::Mapping;
use crate::mesh::Reason;
use crate::step::{CAUSES, Passes, PhaseCost, environments, phase_cost};

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
pub fn decode_passes(mapping: &Mapping, requests: &Requests) -> Passes {
    let mut passes = Passes { passes: ZERO, b: ZERO, fullest: ZERO, s: [1.0; LANES], t: ZERO, consecutive: false };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    for i in 0..LANES {
        let held = ceiling(requests.batch[i] / dp);
        let output = requests.output_tokens[i];
        passes.passes[i] = if held < pp { held } else { pp };
        passes.b[i] = held / passes.passes[i];
        passes.fullest[i] = ceiling(passes.b[i]);
        passes.t[i] = requests.prompt_tokens[i] + 0.5 * if output > 2.0 { output } else { 2.0 };
    }
    passes
}

fn memory_bytes(mapping: &Mapping, requests: &Requests, prefill: &Passes) -> Lane {
    let fullest_pass = Passes { b: prefill.fullest, ..prefill.clone() };
    let (env, _) = environments(mapping, &mapping.prefill, &fullest_pass);
    let mut largest = ZERO;
    for kernel in mapping.prefill.blocks.iter().flatten() {
        let basis = match kernel.cost.mask.and_then(|m| env.masks.get(m)) {
            Some((pairs, _)) => pairs,
            None => &env.plain,
        };
        let bytes = basis.value(&kernel.cost.traffic.activations);
        for i in 0..LANES {
            largest[i] = if bytes[i] > largest[i] { bytes[i] } else { largest[i] };
        }
    }
    let dp = f64::from(mapping.mesh.dp);
    let mut fullest = ZERO;
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
    fullest
}

/// Evaluates a block of points of one mapping.
pub fn serve(mapping: &Mapping, requests: &Requests) -> Served {
    let prefill_passes = prefill_passes(mapping, requests);
    let prefill = phase_cost(mapping, &mapping.prefill, &prefill_passes);
    let decode = phase_cost(mapping, &mapping.decode, &decode_passes(mapping, requests));
    let memory = memory_bytes(mapping, requests, &prefill_passes);
    let mut served = Served { columns: [ZERO; WIDTH], reasons: [Reason::Ok; LANES] };
    fill(&mut served, mapping, requests, &prefill, &decode, &memory);
    served
}

fn fill(
    served: &mut Served,
    mapping: &Mapping,
    requests: &Requests,
    prefill: &PhaseCost,
    decode: &PhaseCost,
    memory: &Lane,
) {
    let gpus = f64::from(mapping.mesh.gpus());
    let (prefill_j, step_j) = (prefill.energy_j(), decode.energy_j());
    for i in 0..LANES {
        let (batch, output) = (requests.batch[i], requests.output_tokens[i]);
        let steps = output - 1.0;
        let (ttft, tpot) = (prefill.elapsed_s[i], decode.elapsed_s[i]);
        let latency = ttft + steps * tpot;
        let decode_j = steps * step_j[i];
        let energy = prefill_j[i] + decode_j;
        let tokens_per_s = batch * output / latency;
        let row = [
            latency,
            ttft,
            tpot,
            energy,
            energy / (batch * output),
            energy / batch,
            prefill_j[i],
            decode_j,
            energy / (latency * gpus),
            tokens_per_s,
            tokens_per_s / gpus,
            memory[i],
            step_j[i],
            gpus,
        ];
        for (column, value) in served.columns.iter_mut().zip(row) {
            column[i] = value;
        }
        for cause in 0..CAUSES.len() {
            served.columns[COLUMNS.len() + cause][i] = prefill.joules[cause][i];
            served.columns[COLUMNS.len() + CAUSES.len() + cause][i] = steps * decode.joules[cause][i];
        }
        if batch < f64::from(mapping.mesh.dp) {
            served.reasons[i] = Reason::Batch;
        } else if memory[i] > mapping.constants.capacity_bytes {
            served.reasons[i] = Reason::Memory;
        }
    }
}
