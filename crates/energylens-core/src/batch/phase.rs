//! One phase of a step: passes through the pipeline stages, elapsed seconds, joules by cause (section 8 of the physics page).

use crate::cost::env::Env;
use crate::cost::power::{Stage as MeasuredStage, limited};
use crate::cost::program::{
    ACTIVATIONS_J, CACHE_J, CLOCKED_S, COMPUTE_J, EXPOSED_S, HIDDEN_S, JOULES, KERNEL_S, LINK_J, NONLINEAR_SUMS,
    NonlinearSums, SUMS, Sums, WEIGHTS_J,
};
use crate::lowering::mapping::{MappedPhase, Mapping, StepConstants};
use crate::numeric::lanes::{LANES, Lane};

/// Causes of energy, in the order of [`PhaseCost::joules`]: first those of the sums of a stage, by their positions there,
/// then the waiting power under kernels and under nothing.
pub const CAUSES: [&str; 7] =
    ["compute", "hbm_weights", "hbm_kv", "hbm_activations", "communication", "static", "waiting"];
/// Position of the waiting power under kernels among [`CAUSES`].
const STATIC: usize = JOULES;
/// Position of the waiting power while nothing runs (host time, pipeline bubbles) among [`CAUSES`].
const WAITING: usize = JOULES + 1;

/// Passes of a phase step, by point.
#[derive(Clone, Debug)]
pub struct Passes<const L: usize = LANES> {
    /// Passes in flight (decode) or in a row (prefill).
    pub passes: Lane<L>,
    /// Sequences of one data-parallel rank in a pass.
    pub b: Lane<L>,
    /// Sequences of one data-parallel rank in a full prefill pass, which decides the memory of activations.
    pub fullest: Lane<L>,
    /// New tokens of a sequence.
    pub s: Lane<L>,
    /// Visible tokens of a sequence, cached and new.
    pub t: Lane<L>,
    /// Whether passes follow one another (prefill) rather than circulate through the pipeline (decode).
    pub consecutive: bool,
}

/// Elapsed seconds and joules of a phase step, of all GPUs of an engine.
#[derive(Clone, Debug)]
pub struct PhaseCost<const L: usize = LANES> {
    /// Seconds from the first kernel to the last. Infinite if a stage draws more watts than it may; NaN if the seconds are
    /// infinite by themselves under such a limit.
    pub elapsed_s: Lane<L>,
    /// Joules by cause, in the order of [`CAUSES`].
    pub joules: [Lane<L>; 7],
    /// Joules of all causes.
    pub energy_j: Lane<L>,
}

impl<const L: usize> PhaseCost<L> {
    /// No seconds and no joules.
    pub const NONE: Self = Self { elapsed_s: [0.0; L], joules: [[0.0; L]; 7], energy_j: [0.0; L] };

    /// References to its lanes.
    #[inline(always)]
    pub fn view(&self) -> PhaseView<'_, L> {
        PhaseView { elapsed_s: &self.elapsed_s, joules: &self.joules, energy_j: &self.energy_j }
    }
}

/// The lanes of a phase's cost, wherever they are stored.
#[derive(Clone, Copy, Debug)]
pub struct PhaseView<'a, const L: usize = LANES> {
    /// Seconds from the first kernel to the last.
    pub elapsed_s: &'a Lane<L>,
    /// Joules by cause, in the order of [`CAUSES`].
    pub joules: &'a [Lane<L>; 7],
    /// Joules of all causes.
    pub energy_j: &'a Lane<L>,
}

/// Sums over all stages: dynamic joules by cause, then seconds at the waiting power of the point's clock.
type Totals<const L: usize> = [Lane<L>; TOTALS];
const TOTALS: usize = JOULES + 3;
/// Seconds of kernels, at the position that they have in the sums of a stage.
const BUSY_S: usize = KERNEL_S;
/// Seconds of exposed communication, at the position that they have in the sums of a stage.
const COMMUNICATING_S: usize = EXPOSED_S;
/// Seconds of waiting power that a lowered clock saves.
const SAVED_S: usize = EXPOSED_S + 1;

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Scratch<const L: usize = LANES> {
    env: Env<L>,
    divided: Vec<Env<L>>,
    /// Nonlinear seconds that do not depend on the context, by kind of stage.
    pub context_free: Vec<NonlinearSums<L>>,
    context_dependent: Vec<NonlinearSums<L>>,
    sums: Sums<L>,
    totals: Totals<L>,
    /// Sequences of the fullest pass of the latest phase.
    pub fullest: Lane<L>,
    /// Seconds that a lock or a cap adds to a pass of the latest phase, over all stages.
    pub governed_s: Lane<L>,
    /// Watts of the stage of the latest phase that draws the most, if the mapping limits them.
    pub drawn_w: Lane<L>,
}

impl<const L: usize> Default for Scratch<L> {
    fn default() -> Self {
        Self {
            env: Env::default(),
            divided: Vec::new(),
            context_free: Vec::new(),
            context_dependent: Vec::new(),
            sums: [[0.0; L]; SUMS],
            totals: [[0.0; L]; TOTALS],
            fullest: [0.0; L],
            governed_s: [0.0; L],
            drawn_w: [0.0; L],
        }
    }
}

impl<const L: usize> Scratch<L> {
    /// Fills the environment of a phase and those of its overlapped kernels, and returns them.
    ///
    /// Context-parallel ranks share the new tokens of prefill and the visible tokens of decode (Eq. 8.5).
    #[inline(always)]
    pub fn environments(&mut self, mapping: &Mapping, phase: &MappedPhase, passes: &Passes<L>) -> (&Env<L>, &[Env<L>]) {
        let experts = mapping.experts.as_ref();
        let cp = 1.0 / f64::from(mapping.mesh.cp);
        let (new_share, visible_share) = if passes.consecutive { (cp, 1.0) } else { (1.0, cp) };
        let (new, visible) = ((&passes.s, new_share), (&passes.t, visible_share));
        self.env.fill(&passes.b, new, visible, &phase.masks, experts);
        self.divided.resize(phase.divisions.len(), Env::default());
        for (env, stages) in self.divided.iter_mut().zip(&phase.divisions) {
            let mut b = passes.b;
            for i in 0..L {
                b[i] /= stages;
            }
            env.fill(&b, new, visible, &phase.masks, experts);
        }
        (&self.env, &self.divided)
    }

    /// Evaluates the nonlinear seconds that do not depend on the context.
    #[inline(always)]
    pub fn evaluate_context_free(&mut self, mapping: &Mapping, phase: &MappedPhase, passes: &Passes<L>, tables: bool) {
        self.environments(mapping, phase, passes);
        self.context_free.resize(mapping.kinds.len(), [[0.0; L]; NONLINEAR_SUMS]);
        phase.program.evaluate_context_free(&self.env, &self.divided, tables, &mut self.context_free);
    }
}

/// What rounding may add to the watts of a stage at the limit of the board (Eq. 11.4).
const ROUNDING: f64 = 1.0 + 1e-12;

/// One pass through one stage of the pipeline, on one GPU.
struct StagePass<'a, const L: usize> {
    constants: &'a StepConstants,
    /// Joules and seconds, by [`SUMS`].
    sums: &'a mut Sums<L>,
    /// Seconds without the send: host, kernels, exposed communication (Θ of Eq. 8.1).
    time_s: Lane<L>,
    /// Seconds that the send to the next stage adds to every pass but the first (Δ of Eq. 8.2).
    send_s: Lane<L>,
    /// Seconds of waiting power that a lowered clock saves.
    saved_s: Lane<L>,
}

impl<'a, const L: usize> StagePass<'a, L> {
    /// Seconds of a pass (Eq. 8.1, 8.2), given the `sums` of its stage and the seconds of the send by itself.
    #[inline(always)]
    fn new(
        constants: &'a StepConstants,
        phase: &MappedPhase,
        passes: &Passes<L>,
        alone_s: &Lane<L>,
        sums: &'a mut Sums<L>,
    ) -> Self {
        let (mut time_s, mut send_s) = ([0.0; L], *alone_s);
        for i in 0..L {
            sums[KERNEL_S][i] += constants.sequence_s * passes.b[i];
            time_s[i] = constants.host_s + sums[KERNEL_S][i] + sums[EXPOSED_S][i];
        }
        if phase.send_overlaps {
            for i in 0..L {
                send_s[i] = phase.contention.both(time_s[i], alone_s[i]) - time_s[i];
            }
        }
        Self { constants, sums, time_s, send_s, saved_s: [0.0; L] }
    }

    /// Adds joules of sampling and of the watts of communication (Eq. 8.3, 7.14).
    #[inline(always)]
    fn add_joules(&mut self, phase: &MappedPhase, passes: &Passes<L>) {
        let (constants, sums) = (self.constants, &mut *self.sums);
        for i in 0..L {
            sums[EXPOSED_S][i] += self.send_s[i];
            sums[COMPUTE_J][i] += constants.sequence_j * passes.b[i];
            sums[LINK_J][i] += constants.communication_w * sums[EXPOSED_S][i];
        }
        if phase.program.has_hidden_communication() {
            for i in 0..L {
                sums[LINK_J][i] += constants.communication_w * sums[HIDDEN_S][i];
            }
        }
    }

    /// Runs the stage at the clock that a lock or a cap leaves it (section 11 of the physics page). Returns the share of its dynamic
    /// joules that is drawn, and the seconds that are added.
    #[inline(always)]
    fn govern(&mut self, mapping: &Mapping) -> Option<(Lane<L>, Lane<L>)> {
        let governor = mapping.governor.as_ref()?;
        let sums = &mut *self.sums;
        let mut measured = MeasuredStage {
            time: self.time_s,
            kernel_s: sums[KERNEL_S],
            clocked_s: sums[CLOCKED_S],
            work_j: sums[COMPUTE_J],
            rest_j: [0.0; L],
        };
        for i in 0..L {
            measured.time[i] += self.send_s[i];
            measured.rest_j[i] = sums[WEIGHTS_J][i] + sums[CACHE_J][i] + sums[ACTIVATIONS_J][i] + sums[LINK_J][i];
        }
        let governed = governor.govern(&measured);
        let mut longer_s = [0.0; L];
        for i in 0..L {
            let longer = governed.time[i] - measured.time[i];
            self.time_s[i] += longer;
            longer_s[i] = longer;
            sums[COMPUTE_J][i] = governed.compute_j[i];
            // The waiting power falls with the clock: seconds count for what is left of it, the rest is saved.
            sums[KERNEL_S][i] = governed.waiting[i] * (sums[KERNEL_S][i] + longer);
            sums[EXPOSED_S][i] *= governed.waiting[i];
            self.saved_s[i] = (1.0 - governed.waiting[i]) * governed.time[i];
        }
        Some((governed.drawn, longer_s))
    }

    /// Adds joules of the watts of running kernels (Eq. 8.3) and returns the share of all dynamic joules that the limit of
    /// the board leaves (Eq. 8.4).
    #[inline(always)]
    fn limit(&mut self) -> Lane<L> {
        let constants = self.constants;
        let mut drawn = [1.0; L];
        for i in 0..L {
            self.sums[COMPUTE_J][i] += constants.active_w * self.sums[KERNEL_S][i];
            drawn[i] = limited(self.repeated_s(i), self.dynamic_j(i), constants.static_w, constants.tdp_w);
        }
        drawn
    }

    /// Raises `most_w` to the watts of the stage (left side of Eq. 11.4), of whose dynamic joules a share is `drawn`.
    #[inline(always)]
    fn raise_watts(&self, drawn: &Lane<L>, most_w: &mut Lane<L>) {
        for i in 0..L {
            let watts = drawn[i] * self.dynamic_j(i) / self.repeated_s(i) + self.constants.static_w;
            most_w[i] = if watts > most_w[i] { watts } else { most_w[i] };
        }
    }

    /// Seconds of every pass but the first.
    #[inline(always)]
    fn repeated_s(&self, i: usize) -> f64 {
        self.time_s[i] + self.send_s[i]
    }

    /// Dynamic joules.
    #[inline(always)]
    fn dynamic_j(&self, i: usize) -> f64 {
        let sums = &*self.sums;
        sums[COMPUTE_J][i] + sums[WEIGHTS_J][i] + sums[CACHE_J][i] + sums[ACTIVATIONS_J][i] + sums[LINK_J][i]
    }

    /// Scales its dynamic joules to the share that is `drawn` and adds `stages` such passes to `totals`.
    #[inline(always)]
    fn add_to(self, stages: f64, first: bool, drawn: &Lane<L>, totals: &mut Totals<L>) {
        let Self { sums, saved_s, .. } = self;
        for joules in &mut sums[..JOULES] {
            for i in 0..L {
                joules[i] *= drawn[i];
            }
        }
        for (sum, total) in sums[..=EXPOSED_S].iter().chain([&saved_s]).zip(totals.iter_mut()) {
            for i in 0..L {
                total[i] = stages * sum[i] + if first { 0.0 } else { total[i] };
            }
        }
    }
}

/// Seconds of passes through the whole pipeline.
struct PipelineSeconds<const L: usize> {
    /// Of the first pass through all stages, sends included.
    first_s: Lane<L>,
    /// Of every later pass through the slowest stage.
    slowest_s: Lane<L>,
}

/// Evaluates one phase step whose context-free seconds are in `scratch`; `tables` lets matrix products be looked up, with
/// the same bits.
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
    scratch.context_dependent.resize(kinds, [[0.0; L]; NONLINEAR_SUMS]);
    scratch.context_free.resize(kinds, [[0.0; L]; NONLINEAR_SUMS]);
    let Scratch { env, divided, context_free, context_dependent, sums, totals, governed_s, drawn_w, .. } = scratch;
    *drawn_w = [0.0; L];
    phase.program.evaluate_context_dependent(env, divided, tables, context_dependent);

    let send_s = match &phase.send {
        Some(send) => send.seconds(env, 1.0, 1.0),
        None => [0.0; L],
    };
    let mut pipeline = PipelineSeconds { first_s: [0.0; L], slowest_s: [0.0; L] };
    let nonlinear = context_free.iter().zip(context_dependent.iter());
    for (kind, (stages, (free, dependent))) in mapping.kinds.iter().map(|kind| kind.stages).zip(nonlinear).enumerate() {
        phase.program.sum(kind, (env, divided), free, dependent, sums);
        let mut pass = StagePass::new(&mapping.constants, phase, passes, &send_s, sums);
        pass.add_joules(phase, passes);
        let drawn = if let Some((drawn, longer_s)) = pass.govern(mapping) {
            for i in 0..L {
                governed_s[i] = stages * longer_s[i] + if kind == 0 { 0.0 } else { governed_s[i] };
            }
            drawn
        } else {
            let drawn = pass.limit();
            if mapping.most_w.is_some() {
                pass.raise_watts(&drawn, drawn_w);
            }
            drawn
        };
        for i in 0..L {
            pipeline.first_s[i] += stages * (pass.time_s[i] + send_s[i]);
            let repeated = pass.repeated_s(i);
            pipeline.slowest_s[i] = if repeated > pipeline.slowest_s[i] { repeated } else { pipeline.slowest_s[i] };
        }
        pass.add_to(stages, kind == 0, &drawn, totals);
    }
    pipeline.step(mapping, passes, totals, out);
    if let Some(most_w) = mapping.most_w {
        refuse_above(most_w, drawn_w, &mut out.elapsed_s);
    }
}

impl<const L: usize> PipelineSeconds<L> {
    /// Elapsed seconds of all passes (Eq. 8.7, 8.8) and joules by cause of all GPUs (Eq. 8.9).
    #[inline(always)]
    fn step(&self, mapping: &Mapping, passes: &Passes<L>, totals: &Totals<L>, out: &mut PhaseCost<L>) {
        let static_w = mapping.constants.static_w;
        let gpus = f64::from(mapping.mesh.stage_gpus());
        let stages = f64::from(mapping.mesh.pp);
        for i in 0..L {
            let n = passes.passes[i];
            let circulating = n * self.slowest_s[i];
            let in_a_row = self.first_s[i] + (n - 1.0) * self.slowest_s[i];
            let longer = if circulating > self.first_s[i] { circulating } else { self.first_s[i] };
            let elapsed = if passes.consecutive { in_a_row } else { longer };
            let work = gpus * n;
            let exposed = work * static_w * totals[COMMUNICATING_S][i];
            let busy = work * static_w * totals[BUSY_S][i];
            let saved = work * static_w * totals[SAVED_S][i];
            out.elapsed_s[i] = elapsed;
            out.joules[COMPUTE_J][i] = work * totals[COMPUTE_J][i];
            out.joules[WEIGHTS_J][i] = work * totals[WEIGHTS_J][i];
            out.joules[CACHE_J][i] = work * totals[CACHE_J][i];
            out.joules[ACTIVATIONS_J][i] = work * totals[ACTIVATIONS_J][i];
            out.joules[LINK_J][i] = work * totals[LINK_J][i] + exposed;
            out.joules[STATIC][i] = busy;
            out.joules[WAITING][i] = gpus * stages * static_w * elapsed - exposed - busy - saved;
            out.energy_j[i] = out.joules[COMPUTE_J][i]
                + out.joules[WEIGHTS_J][i]
                + out.joules[CACHE_J][i]
                + out.joules[ACTIVATIONS_J][i]
                + out.joules[LINK_J][i]
                + out.joules[STATIC][i]
                + out.joules[WAITING][i];
        }
    }
}

/// Makes seconds infinite where a stage draws more than `most_w`, so that the point is refused; seconds that are infinite
/// by themselves become NaN, so that it is refused for that instead.
#[inline(always)]
fn refuse_above<const L: usize>(most_w: f64, drawn_w: &Lane<L>, elapsed_s: &mut Lane<L>) {
    for i in 0..L {
        let elapsed = if elapsed_s[i] < f64::INFINITY { elapsed_s[i] } else { f64::NAN };
        let finite_over = drawn_w[i] > most_w * ROUNDING && elapsed_s[i] < f64::INFINITY;
        elapsed_s[i] = if finite_over { f64::INFINITY } else { elapsed };
    }
}
