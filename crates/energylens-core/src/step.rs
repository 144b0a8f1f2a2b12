//! One phase of a step: passes through the pipeline stages, elapsed seconds, joules by cause.

use crate::cost::collective::Collective;
use crate::cost::kernel::{Cost, Env};
use crate::cost::lanes::{LANES, Lane, ZERO};
use crate::cost::power::capped;
use crate::mapping::{MappedPhase, Mapping};

/// Causes of energy, in the order of [`PhaseCost::joules`].
pub const CAUSES: [&str; 7] =
    ["compute", "hbm_weights", "hbm_kv", "hbm_activations", "communication", "static", "waiting"];

/// What a phase asks of every pass.
#[derive(Clone, Debug)]
pub struct Passes {
    /// Passes in flight or in a row.
    pub passes: Lane,
    /// Sequences of one data-parallel rank in a pass.
    pub b: Lane,
    /// Sequences of the fullest pass.
    pub fullest: Lane,
    /// New tokens of a sequence.
    pub s: Lane,
    /// Visible tokens.
    pub t: Lane,
    /// Whether passes follow one another (prefill) rather than circulate (decode).
    pub consecutive: bool,
}

/// Elapsed seconds and joules of all GPUs of an engine.
#[derive(Clone, Debug)]
pub struct PhaseCost {
    /// Seconds from the first kernel to the last.
    pub elapsed_s: Lane,
    /// Joules by cause.
    pub joules: [Lane; 7],
}

impl PhaseCost {
    /// Joules of all causes.
    pub fn energy_j(&self) -> Lane {
        let mut total = ZERO;
        for cause in &self.joules {
            for i in 0..LANES {
                total[i] += cause[i];
            }
        }
        total
    }
}

/// Cost of one repetition of each block on one GPU.
pub fn block_costs(phase: &MappedPhase, env: &Env, divided: &[Env]) -> Vec<Cost> {
    let sum = |kernels: &Vec<crate::mapping::MappedKernel>| {
        let mut total = Cost::NONE;
        for kernel in kernels {
            total.add(&kernel.cost.cost(env, divided), 1.0);
        }
        total
    };
    phase.blocks.iter().map(sum).collect()
}

/// Environment of a phase and those of its staged kernels.
pub fn environments(mapping: &Mapping, phase: &MappedPhase, passes: &Passes) -> (Env, Vec<Env>) {
    let experts = mapping.experts.as_ref();
    let env = Env::new(&passes.b, &passes.s, &passes.t, &phase.masks, experts);
    let divided = phase
        .divisions
        .iter()
        .map(|stages| {
            let b = passes.b.map(|b| b / stages);
            Env::new(&b, &passes.s, &passes.t, &phase.masks, experts)
        })
        .collect();
    (env, divided)
}

/// Evaluates one phase.
pub fn phase_cost(mapping: &Mapping, phase: &MappedPhase, passes: &Passes) -> PhaseCost {
    let (env, divided) = environments(mapping, phase, passes);
    let blocks = block_costs(phase, &env, &divided);
    let constants = &mapping.constants;
    let send = phase.send.as_ref().map(|send: &Collective| {
        let mut joules = ZERO;
        send.add_joules(&env.plain, &mut joules);
        (send.seconds(&env.plain, 1.0, 1.0), joules)
    });

    let (mut all_s, mut slowest_s, mut added_s) = (ZERO, ZERO, ZERO);
    let mut stages = Cost::NONE;
    for kind in &mapping.kinds {
        let mut stage = Cost::NONE;
        for (block, count) in blocks.iter().zip(&kind.counts) {
            if *count > 0.0 {
                stage.add(block, *count);
            }
        }
        if let Some((seconds, joules)) = &send {
            for i in 0..LANES {
                stage.exposed_s[i] += seconds[i];
                stage.link_j[i] += joules[i];
            }
        }
        for i in 0..LANES {
            let uncapped = constants.host_s + stage.kernel_s[i] + stage.exposed_s[i];
            let dynamic =
                stage.compute_j[i] + stage.weights_j[i] + stage.cache_j[i] + stage.activations_j[i] + stage.link_j[i];
            let time = capped(uncapped, dynamic, constants.static_w, constants.tdp_w);
            all_s[i] += kind.stages * time;
            added_s[i] += kind.stages * (time - uncapped);
            slowest_s[i] = if time > slowest_s[i] { time } else { slowest_s[i] };
        }
        stages.add(&stage, kind.stages);
    }

    let gpus = f64::from(mapping.mesh.stage_gpus());
    let pipeline = f64::from(mapping.mesh.pp);
    let mut out = PhaseCost { elapsed_s: ZERO, joules: [ZERO; 7] };
    for i in 0..LANES {
        let n = passes.passes[i];
        let circulating = n * slowest_s[i];
        let elapsed = if passes.consecutive {
            all_s[i] + (n - 1.0) * slowest_s[i]
        } else if circulating > all_s[i] {
            circulating
        } else {
            all_s[i]
        };
        let work = gpus * n;
        let exposed = work * constants.static_w * stages.exposed_s[i];
        let busy = work * constants.static_w * (stages.kernel_s[i] + added_s[i]);
        let total_static = gpus * pipeline * constants.static_w * elapsed;
        out.elapsed_s[i] = elapsed;
        out.joules[0][i] = work * stages.compute_j[i];
        out.joules[1][i] = work * stages.weights_j[i];
        out.joules[2][i] = work * stages.cache_j[i];
        out.joules[3][i] = work * stages.activations_j[i];
        out.joules[4][i] = work * stages.link_j[i] + exposed;
        out.joules[5][i] = busy;
        out.joules[6][i] = total_static - exposed - busy;
    }
    out
}
