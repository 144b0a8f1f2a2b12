//! One phase of a step: passes through the pipeline stages, elapsed seconds, joules by cause.

use crate::cost::kernel::Env;
use crate::cost::power::{Stage as Ungoverned, limited};
use crate::cost::program::{
    CLOCKED_S, COMPUTE_J, EXPOSED_S, HIDDEN_S, JOULES, KERNEL_S, LINK_J, NONLINEAR_SUMS, NonlinearSums, SUMS, Sums,
};
use crate::lowering::mapping::{MappedPhase, Mapping};
use crate::numeric::lanes::{LANES, Lane};

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
    /// Seconds from the first kernel to the last; infinite where a stage draws more than it may, and no number where they are
    /// beyond all numbers under such a limit.
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

/// Number of sums over all stages: joules of each, seconds of kernels and of exposed communication, and the seconds of
/// waiting that a slowed stage saves; the last three at the waiting power of the point's clock.
const TOTALS: usize = JOULES + 3;
const BUSY_S: usize = JOULES;
const COMMUNICATING_S: usize = JOULES + 1;
const SAVED_S: usize = JOULES + 2;

type Totals<const L: usize> = [Lane<L>; TOTALS];

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Scratch<const L: usize = LANES> {
    env: Env<L>,
    divided: Vec<Env<L>>,
    /// Seconds that bend and do not see the context, by kind of stage.
    pub fixed: Vec<NonlinearSums<L>>,
    moving: Vec<NonlinearSums<L>>,
    stage: Sums<L>,
    total: Totals<L>,
    /// Sequences of the fullest pass of the latest phase.
    pub fullest: Lane<L>,
    /// What a lock or a cap adds to a pass of the latest phase, in seconds of all its stages.
    pub governed_s: Lane<L>,
    /// Watts of the stage of the latest phase that draws the most, where they may not exceed some.
    pub drawn_w: Lane<L>,
}

impl<const L: usize> Default for Scratch<L> {
    fn default() -> Self {
        Self {
            env: Env::default(),
            divided: Vec::new(),
            fixed: Vec::new(),
            moving: Vec::new(),
            stage: [[0.0; L]; SUMS],
            total: [[0.0; L]; TOTALS],
            fullest: [0.0; L],
            governed_s: [0.0; L],
            drawn_w: [0.0; L],
        }
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

    /// Evaluates what bends and does not see the context.
    #[inline(always)]
    pub fn fix(&mut self, mapping: &Mapping, phase: &MappedPhase, passes: &Passes<L>, tables: bool) {
        self.environments(mapping, phase, passes);
        self.fixed.resize(mapping.kinds.len(), [[0.0; L]; NONLINEAR_SUMS]);
        phase.program.evaluate_context_free(&self.env, &self.divided, tables, &mut self.fixed);
    }
}

/// What rounding may add to the watts of a stage at the limit of the board.
const ROUNDING: f64 = 1.0 + 1e-12;

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
    let kinds = mapping.kinds.len();
    scratch.moving.resize(kinds, [[0.0; L]; NONLINEAR_SUMS]);
    scratch.fixed.resize(kinds, [[0.0; L]; NONLINEAR_SUMS]);
    let Scratch { env, divided, fixed, moving, stage, total, governed_s, drawn_w, .. } = scratch;
    *drawn_w = [0.0; L];
    phase.program.evaluate_context_dependent(env, divided, tables, moving);
    let constants = &mapping.constants;

    let handed_s = match &phase.send {
        Some(send) => send.seconds(env, 1.0, 1.0),
        None => [0.0; L],
    };
    let (mut all_s, mut slowest_s) = ([0.0; L], [0.0; L]);
    for (kind, ((stages, fixed), moving)) in
        mapping.kinds.iter().map(|kind| kind.stages).zip(fixed.iter()).zip(moving.iter()).enumerate()
    {
        phase.program.sum(kind, (env, divided), fixed, moving, stage);
        let (mut time, mut beside, mut saved) = ([0.0; L], handed_s, [0.0; L]);
        for i in 0..L {
            stage[KERNEL_S][i] += constants.sequence_s * passes.b[i];
            time[i] = constants.host_s + stage[KERNEL_S][i] + stage[EXPOSED_S][i];
        }
        if phase.sends_beside {
            for i in 0..L {
                beside[i] = phase.contention.both(time[i], handed_s[i]) - time[i];
            }
        }
        for i in 0..L {
            stage[EXPOSED_S][i] += beside[i];
            stage[COMPUTE_J][i] += constants.sequence_j * passes.b[i];
            stage[LINK_J][i] += constants.communication_w * stage[EXPOSED_S][i];
        }
        if phase.program.has_hidden_communication() {
            for i in 0..L {
                stage[LINK_J][i] += constants.communication_w * stage[HIDDEN_S][i];
            }
        }
        let drawn = if let Some(governor) = &mapping.governor {
            let mut own = Ungoverned {
                time,
                kernel_s: stage[KERNEL_S],
                clocked_s: stage[CLOCKED_S],
                work_j: stage[COMPUTE_J],
                rest_j: [0.0; L],
            };
            for i in 0..L {
                own.time[i] += beside[i];
                own.rest_j[i] = stage[1][i] + stage[2][i] + stage[3][i] + stage[4][i];
            }
            let governed = governor.govern(&own);
            for i in 0..L {
                let longer = governed.time[i] - own.time[i];
                time[i] += longer;
                governed_s[i] = stages * longer + if kind == 0 { 0.0 } else { governed_s[i] };
                stage[COMPUTE_J][i] = governed.compute_j[i];
                // What is left of the waiting power, under kernels and communication; and the seconds' worth saved.
                stage[KERNEL_S][i] = governed.waiting[i] * (stage[KERNEL_S][i] + longer);
                stage[EXPOSED_S][i] *= governed.waiting[i];
                saved[i] = (1.0 - governed.waiting[i]) * governed.time[i];
            }
            governed.drawn
        } else {
            let mut drawn = [1.0; L];
            for i in 0..L {
                stage[COMPUTE_J][i] += constants.active_w * stage[KERNEL_S][i];
                let dynamic = stage[0][i] + stage[1][i] + stage[2][i] + stage[3][i] + stage[4][i];
                drawn[i] = limited(time[i] + beside[i], dynamic, constants.static_w, constants.tdp_w);
            }
            if mapping.most_w.is_some() {
                for i in 0..L {
                    let dynamic = stage[0][i] + stage[1][i] + stage[2][i] + stage[3][i] + stage[4][i];
                    let watts = drawn[i] * dynamic / (time[i] + beside[i]) + constants.static_w;
                    drawn_w[i] = if watts > drawn_w[i] { watts } else { drawn_w[i] };
                }
            }
            drawn
        };
        for i in 0..L {
            all_s[i] += stages * (time[i] + handed_s[i]);
            let again = time[i] + beside[i];
            slowest_s[i] = if again > slowest_s[i] { again } else { slowest_s[i] };
        }
        for joules in &mut stage[..JOULES] {
            for i in 0..L {
                joules[i] *= drawn[i];
            }
        }
        let own = stage[..=EXPOSED_S].iter().chain([&saved]).zip(total.iter_mut());
        for (stage, total) in own {
            for i in 0..L {
                total[i] = stages * stage[i] + if kind == 0 { 0.0 } else { total[i] };
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
        let exposed = work * constants.static_w * total[COMMUNICATING_S][i];
        let busy = work * constants.static_w * total[BUSY_S][i];
        let saved = work * constants.static_w * total[SAVED_S][i];
        let waiting = gpus * pipeline * constants.static_w * elapsed - exposed - busy - saved;
        out.elapsed_s[i] = elapsed;
        out.joules[0][i] = work * total[0][i];
        out.joules[1][i] = work * total[1][i];
        out.joules[2][i] = work * total[2][i];
        out.joules[3][i] = work * total[3][i];
        out.joules[4][i] = work * total[4][i] + exposed;
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
    if let Some(most_w) = mapping.most_w {
        for i in 0..L {
            let elapsed = if out.elapsed_s[i] < f64::INFINITY { out.elapsed_s[i] } else { f64::NAN };
            let finite_over = drawn_w[i] > most_w * ROUNDING && out.elapsed_s[i] < f64::INFINITY;
            out.elapsed_s[i] = if finite_over { f64::INFINITY } else { elapsed };
        }
    }
}
