//! One phase of a step: passes through the pipeline stages, elapsed seconds, joules by cause.

use crate::cost::kernel::Env;
use crate::cost::lanes::{LANES, Lane};
use crate::cost::power::{Stage as CappedStage, limited};
use crate::cost::program::{BENT, Bent, SUMS, Sums};
use crate::mapping::{MappedPhase, Mapping};

/// Causes of energy, in the order of [`PhaseCost::joules`].
pub const CAUSES: [&str; 7] =
    ["compute", "hbm_weights", "hbm_kv", "hbm_activations", "communication", "static", "waiting"];

/// What a phase asks of every pass.
#[derive(Clone, Debug)]
pub struct Passes<const L: usize = LANES> {
    /// Passes in flight or in a row.
    pub passes: Lane<L>,
    /// Sequences of one data-parallel rank in a pass.
    pub b: Lane<L>,
    /// Sequences of the fullest pass (prefill only: it decides the memory).
    pub fullest: Lane<L>,
    /// New tokens of a sequence.
    pub s: Lane<L>,
    /// Visible tokens.
    pub t: Lane<L>,
    /// Whether passes follow one another (prefill) rather than circulate (decode).
    pub consecutive: bool,
}

/// Elapsed seconds and joules of all GPUs of an engine.
#[derive(Clone, Debug)]
pub struct PhaseCost<const L: usize = LANES> {
    /// Seconds from the first kernel to the last.
    pub elapsed_s: Lane<L>,
    /// Joules by cause.
    pub joules: [Lane<L>; 7],
    /// Joules of all causes.
    pub energy_j: Lane<L>,
}

impl<const L: usize> PhaseCost<L> {
    /// Nothing.
    pub const NONE: Self = Self { elapsed_s: [0.0; L], joules: [[0.0; L]; 7], energy_j: [0.0; L] };

    /// Its lanes.
    #[inline(always)]
    pub fn view(&self) -> PhaseView<'_, L> {
        PhaseView { elapsed_s: &self.elapsed_s, joules: &self.joules, energy_j: &self.energy_j }
    }
}

/// The lanes of a phase's cost, wherever they are kept.
#[derive(Clone, Copy, Debug)]
pub struct PhaseView<'a, const L: usize = LANES> {
    /// Seconds from the first kernel to the last.
    pub elapsed_s: &'a Lane<L>,
    /// Joules by cause.
    pub joules: &'a [Lane<L>; 7],
    /// Joules of all causes.
    pub energy_j: &'a Lane<L>,
}

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Scratch<const L: usize = LANES> {
    env: Env<L>,
    divided: Vec<Env<L>>,
    /// Seconds that bend and do not see the context, by kind of stage.
    pub fixed: Vec<Bent<L>>,
    moving: Vec<Bent<L>>,
    /// Sequences of the fullest pass of the latest phase.
    pub fullest: Lane<L>,
}

impl<const L: usize> Default for Scratch<L> {
    fn default() -> Self {
        Self { env: Env::default(), divided: Vec::new(), fixed: Vec::new(), moving: Vec::new(), fullest: [0.0; L] }
    }
}

impl<const L: usize> Scratch<L> {
    /// Fills the environment of a phase and those of its staged kernels, and gives them back.
    #[inline(always)]
    pub fn environments(&mut self, mapping: &Mapping, phase: &MappedPhase, passes: &Passes<L>) -> (&Env<L>, &[Env<L>]) {
        let experts = mapping.experts.as_ref();
        let cp = 1.0 / f64::from(mapping.mesh.cp);
        let (new_share, seen_share) = if passes.consecutive { (cp, 1.0) } else { (1.0, cp) };
        let (new, seen) = ((&passes.s, new_share), (&passes.t, seen_share));
        self.env.fill(&passes.b, new, seen, &phase.masks, experts);
        self.divided.resize(phase.divisions.len(), Env::default());
        for (env, stages) in self.divided.iter_mut().zip(&phase.divisions) {
            let mut b = passes.b;
            for i in 0..L {
                b[i] /= stages;
            }
            env.fill(&b, new, seen, &phase.masks, experts);
        }
        (&self.env, &self.divided)
    }

    /// For a phase that keeps nothing apart.
    #[inline(always)]
    pub fn nothing_fixed(&mut self, mapping: &Mapping) {
        start(&mut self.fixed, mapping.kinds.len());
    }

    /// Evaluates what bends and does not see the context.
    #[inline(always)]
    pub fn fix(&mut self, mapping: &Mapping, phase: &MappedPhase, passes: &Passes<L>, tables: bool) {
        self.environments(mapping, phase, passes);
        start(&mut self.fixed, mapping.kinds.len());
        phase.program.fixed.evaluate(&self.env, &self.divided, tables, &mut self.fixed);
    }
}

#[inline(always)]
fn start<const L: usize>(bent: &mut Vec<Bent<L>>, kinds: usize) {
    bent.resize(kinds, [[0.0; L]; BENT]);
    for own in bent.iter_mut() {
        *own = [[0.0; L]; BENT];
    }
}

/// Evaluates one phase whose fixed seconds are in `scratch`; `tables` lets matrix products be looked up, with the same bits.
#[inline(always)]
pub fn phase_cost<const L: usize>(
    mapping: &Mapping,
    phase: &MappedPhase,
    passes: &Passes<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
    out: &mut PhaseCost<L>,
) {
    scratch.environments(mapping, phase, passes);
    start(&mut scratch.moving, mapping.kinds.len());
    let (env, fixed, moving) = (&scratch.env, &scratch.fixed, &mut scratch.moving);
    phase.program.moving.evaluate(env, &scratch.divided, tables, moving);
    let constants = &mapping.constants;

    let handed_s = phase.send.as_ref().map_or([0.0; L], |send| send.seconds(&env.plain, 1.0, 1.0));
    let (mut all_s, mut slowest_s) = ([0.0; L], [0.0; L]);
    let mut total: Sums<L> = [[0.0; L]; SUMS];
    let mut stage: Sums<L> = [[0.0; L]; SUMS];
    for (kind, ((stages, fixed), moving)) in
        mapping.kinds.iter().map(|kind| kind.stages).zip(fixed).zip(moving).enumerate()
    {
        phase.program.sum(kind, (env, &scratch.divided), fixed, moving, &mut stage);
        let (mut time, mut beside, mut drawn) = ([0.0; L], handed_s, [1.0; L]);
        for i in 0..L {
            stage[0][i] += constants.sequence_s * passes.b[i];
            time[i] = constants.host_s + stage[0][i] + stage[1][i];
        }
        if phase.sends_beside {
            for i in 0..L {
                beside[i] = phase.contention.both(time[i], handed_s[i]) - time[i];
            }
        }
        for i in 0..L {
            stage[1][i] += beside[i];
            stage[2][i] += constants.active_w * stage[0][i] + constants.sequence_j * passes.b[i];
            stage[6][i] += constants.communication_w * (stage[1][i] + stage[7][i]);
            let dynamic = stage[2][i] + stage[3][i] + stage[4][i] + stage[5][i] + stage[6][i];
            drawn[i] = limited(time[i] + beside[i], dynamic, constants.static_w, constants.tdp_w);
            for joules in &mut stage[2..7] {
                joules[i] *= drawn[i];
            }
        }
        if let Some(cap) = &mapping.cap {
            let mut own =
                CappedStage { time, flop_s: stage[8], work_j: [0.0; L], active_j: [0.0; L], rest_j: [0.0; L] };
            for i in 0..L {
                own.time[i] += beside[i];
                own.active_j[i] = drawn[i] * (constants.active_w * stage[0][i]);
                own.work_j[i] = stage[2][i] - own.active_j[i];
                own.rest_j[i] = stage[3][i] + stage[4][i] + stage[5][i] + stage[6][i];
            }
            let slowed = cap.slow_down(&own, constants.static_w);
            for i in 0..L {
                let more = slowed.time[i] - own.time[i];
                time[i] += more;
                stage[2][i] = slowed.compute_j[i];
                // What is left of the waiting power, under kernels and communication; and the seconds' worth saved.
                stage[0][i] = slowed.waiting[i] * (stage[0][i] + more);
                stage[1][i] *= slowed.waiting[i];
                stage[8][i] = (1.0 - slowed.waiting[i]) * slowed.time[i];
            }
        }
        for i in 0..L {
            all_s[i] += stages * (time[i] + handed_s[i]);
            let again = time[i] + beside[i];
            slowest_s[i] = if again > slowest_s[i] { again } else { slowest_s[i] };
        }
        let counted = if mapping.cap.is_some() { SUMS } else { SUMS - 2 };
        for (total, stage) in total.iter_mut().zip(&stage).take(counted) {
            for i in 0..L {
                total[i] += stages * stage[i];
            }
        }
    }

    let gpus = f64::from(mapping.mesh.stage_gpus());
    let pipeline = f64::from(mapping.mesh.pp);
    for i in 0..L {
        let n = passes.passes[i];
        let circulating = n * slowest_s[i];
        let in_a_row = all_s[i] + (n - 1.0) * slowest_s[i];
        let longer = if circulating > all_s[i] { circulating } else { all_s[i] };
        let elapsed = if passes.consecutive { in_a_row } else { longer };
        let work = gpus * n;
        let exposed = work * constants.static_w * total[1][i];
        let busy = work * constants.static_w * total[0][i];
        let saved = if mapping.cap.is_some() { work * constants.static_w * total[8][i] } else { 0.0 };
        let waiting = gpus * pipeline * constants.static_w * elapsed - exposed - busy - saved;
        out.elapsed_s[i] = elapsed;
        out.joules[0][i] = work * total[2][i];
        out.joules[1][i] = work * total[3][i];
        out.joules[2][i] = work * total[4][i];
        out.joules[3][i] = work * total[5][i];
        out.joules[4][i] = work * total[6][i] + exposed;
        out.joules[5][i] = busy;
        out.joules[6][i] = waiting;
        out.energy_j[i] = out.joules[0][i]
            + out.joules[1][i]
            + out.joules[2][i]
            + out.joules[3][i]
            + out.joules[4][i]
            + out.joules[5][i]
            + out.joules[6][i];
    }
}
