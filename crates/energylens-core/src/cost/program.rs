//! One phase of a mapping, summed wherever it is linear and evaluated once wherever it is equal.
//!
//! Joules are linear in the monomials of a pass, and so are the seconds of kernels whose work and traffic grow with one
//! monomial alone. What is left are the few kernels and collectives whose seconds are nonlinear: each is evaluated once,
//! and counted by the pipeline stages that run it. In decode most of them do not depend on the context but on the number of
//! sequences alone: they are kept apart, so that a caller who knows their seconds need not evaluate them again.

use super::collective::Collective;
use super::env::Env;
use super::kernel::{Concurrent, KernelCost};
pub use super::nonlinear::{
    ACTIVATIONS_J, CACHE_J, CLOCKED_S, COMPUTE_J, EXPOSED_S, HIDDEN_S, JOULES, KERNEL_S, LINK_J, NONLINEAR_SUMS,
    NonlinearSums, SUMS, Sums, WEIGHTS_J,
};
use super::nonlinear::{Nonlinear, add_times};
use super::overlap::{Order, Overlapped};
use super::timing::{TimingOptions, smooth_maximum};
use crate::numeric::shape::{Poly, T};

/// Sums that are linear in the monomials of one basis.
type Linear = [Poly; SUMS];

/// The linear sums of one kind of pipeline stage.
#[derive(Clone, Debug, Default)]
struct Stage {
    /// Over plain monomials.
    plain: Linear,
    /// By mask: over visible pairs, and over the tokens read from the cache.
    masked: Vec<(usize, Linear, Linear)>,
    /// Joules of weights for each expert hit (Eq. 6.10).
    expert_weights_j: f64,
    /// Joules of FLOPs on padding for each expert hit (Eq. 6.11).
    expert_padding_j: f64,
    /// Joules of weights for each expert hit by the rows of an overlap stage: by the environment of such stages.
    divided_weights_j: Vec<(usize, f64)>,
}

/// One phase of a mapping.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What is nonlinear and does not depend on t, if it is kept apart.
    context_free: Nonlinear,
    /// What else is nonlinear.
    context_dependent: Nonlinear,
    /// Linear sums by kind of stage.
    stages: Vec<Stage>,
    /// Whether what does not depend on t is kept apart.
    split: bool,
    /// Whether the seconds that follow the clock are computed.
    clocked: bool,
    /// How many of the nonlinear sums are in use, from the first on.
    nonlinear_sums: usize,
}

impl Program {
    /// An empty program; `split` keeps apart what does not depend on t, `clocked` computes the seconds that follow the clock.
    pub fn new(split: bool, clocked: bool) -> Self {
        Self {
            split,
            clocked,
            nonlinear_sums: if clocked { NONLINEAR_SUMS } else { HIDDEN_S - JOULES },
            ..Self::default()
        }
    }

    /// Starts the next kind of stage.
    pub fn next_stage(&mut self) {
        self.stages.push(Stage::default());
    }

    /// Adds `times` runs of a block's kernels to the latest kind of stage.
    pub fn add_block<'a>(&mut self, kernels: impl Iterator<Item = &'a KernelCost> + Clone, times: f64) {
        let turns = |kernel: &&KernelCost| {
            kernel.concurrent.as_ref().is_some_and(|concurrent| concurrent.order == Order::Turns)
        };
        // Micro-batches that take turns overlap a whole block, everything else overlaps kernel by kernel.
        if let Some(overlapped) = KernelCost::overlapped(kernels.clone().filter(turns)) {
            self.add_overlapped(overlapped, times);
        }
        for kernel in kernels {
            self.add(kernel, times);
        }
    }

    /// Adds `times` runs of a kernel to the latest kind of stage, except for the seconds of what takes turns.
    fn add(&mut self, kernel: &KernelCost, times: f64) {
        let latest = self.stages.len().saturating_sub(1);
        let Some(stage) = self.stages.last_mut() else { return };
        stage.add_joules(kernel, times);
        match &kernel.concurrent {
            Some(Concurrent { order: Order::Turns, .. }) => {}
            Some(_) => {
                KernelCost::overlapped([kernel])
                    .into_iter()
                    .for_each(|overlapped| self.add_overlapped(overlapped, times));
            }
            None => {
                if let Some((seconds, clocked)) = linear_seconds(kernel) {
                    stage.plain[KERNEL_S].add(&seconds.scaled(times));
                    stage.plain[CLOCKED_S].add(&clocked.scaled(times));
                } else {
                    let timed = kernel.timed(&kernel.timing);
                    self.part(timed.depends_on(T)).timed.add(timed, latest, times);
                }
            }
        }
        for collective in kernel.exposed() {
            self.part(collective.message.depends_on(T)).collectives.add(collective.clone(), latest, times);
        }
    }

    fn add_overlapped(&mut self, overlapped: Overlapped, times: f64) {
        let latest = self.stages.len().saturating_sub(1);
        self.nonlinear_sums = self.nonlinear_sums.max(CLOCKED_S - JOULES);
        self.part(overlapped.depends_on(T)).overlapped.add(overlapped, latest, times);
    }

    /// Adds the joules of a collective whose seconds are counted elsewhere: the message to the next stage.
    pub fn add_link(&mut self, collective: &Collective) {
        if let Some(stage) = self.stages.last_mut() {
            stage.plain[LINK_J].add(&collective.joules());
        }
    }

    fn part(&mut self, context_dependent: bool) -> &mut Nonlinear {
        if context_dependent || !self.split { &mut self.context_dependent } else { &mut self.context_free }
    }

    /// Bytes it holds in memory, about; with the tables it will have, if it is used with them.
    pub fn bytes(&self, tables: bool) -> usize {
        let linear = |linear: &Linear| linear.iter().map(Poly::bytes).sum::<usize>();
        let stage = |stage: &Stage| {
            let masked = |(_, pairs, reach): &(usize, Linear, Linear)| {
                size_of::<(usize, Linear, Linear)>() + linear(pairs) + linear(reach)
            };
            size_of::<Stage>() + linear(&stage.plain) + stage.masked.iter().map(masked).sum::<usize>()
        };
        let parts = [&self.context_free, &self.context_dependent].map(|part| part.bytes(tables));
        self.stages.iter().map(stage).sum::<usize>() + parts.iter().sum::<usize>()
    }

    /// How many of the nonlinear sums it uses, from the first on.
    pub fn nonlinear_sums(&self) -> usize {
        self.nonlinear_sums
    }

    /// Whether it has a sum of hidden communication, which may be zero.
    pub fn has_hidden_communication(&self) -> bool {
        self.nonlinear_sums > HIDDEN_S - JOULES
    }

    /// Evaluates the nonlinear seconds that do not depend on the context, if they are kept apart.
    #[inline(always)]
    pub fn evaluate_context_free<const L: usize>(
        &self,
        env: &Env<L>,
        divided: &[Env<L>],
        tables: bool,
        out: &mut [NonlinearSums<L>],
    ) {
        self.start(out);
        self.context_free.evaluate(env, divided, TimingOptions { tables, clocked: self.clocked }, out);
    }

    /// Evaluates all other nonlinear seconds.
    #[inline(always)]
    pub fn evaluate_context_dependent<const L: usize>(
        &self,
        env: &Env<L>,
        divided: &[Env<L>],
        tables: bool,
        out: &mut [NonlinearSums<L>],
    ) {
        self.start(out);
        self.context_dependent.evaluate(env, divided, TimingOptions { tables, clocked: self.clocked }, out);
    }

    /// Sets the sums in use to zero.
    #[inline(always)]
    fn start<const L: usize>(&self, out: &mut [NonlinearSums<L>]) {
        for lane in out.iter_mut().flat_map(|sums| sums.iter_mut().take(self.nonlinear_sums)) {
            *lane = [0.0; L];
        }
    }

    /// Sums of one kind of stage, from its nonlinear ones; those it does not use are left as they are.
    #[inline(always)]
    pub fn sum<const L: usize>(
        &self,
        kind: usize,
        (env, divided): (&Env<L>, &[Env<L>]),
        context_free: &NonlinearSums<L>,
        context_dependent: &NonlinearSums<L>,
        sums: &mut Sums<L>,
    ) {
        let Some(stage) = self.stages.get(kind) else { return };
        let used = JOULES + self.nonlinear_sums;
        for (sum, poly) in sums.iter_mut().zip(&stage.plain).take(used) {
            env.plain.set(poly, sum);
        }
        for (mask, pairs, reach) in &stage.masked {
            let (pairs_basis, reach_basis) = env.bases(Some(*mask));
            for (sum, poly) in sums.iter_mut().zip(pairs).take(JOULES) {
                pairs_basis.add(poly, 1.0, sum);
            }
            for (sum, poly) in sums.iter_mut().zip(reach).take(JOULES) {
                reach_basis.add(poly, 1.0, sum);
            }
        }
        if stage.expert_weights_j > 0.0 {
            add_times(stage.expert_weights_j, &env.hits, &mut sums[WEIGHTS_J]);
        }
        if stage.expert_padding_j > 0.0 {
            add_times(stage.expert_padding_j, &env.hits, &mut sums[COMPUTE_J]);
        }
        for (at, joules) in &stage.divided_weights_j {
            add_times(*joules, &divided.get(*at).unwrap_or(env).hits, &mut sums[WEIGHTS_J]);
        }
        for (sum, (context_free, context_dependent)) in
            sums.iter_mut().skip(JOULES).zip(context_free.iter().zip(context_dependent)).take(self.nonlinear_sums)
        {
            for i in 0..L {
                sum[i] += if self.split { context_free[i] + context_dependent[i] } else { context_dependent[i] };
            }
        }
    }
}

impl Stage {
    /// Adds the joules of `times` runs of a kernel with its collectives (Eq. 8.3).
    fn add_joules(&mut self, kernel: &KernelCost, times: f64) {
        let (traffic, prices, reads) = (&kernel.traffic, &kernel.prices, kernel.reads());
        let experts = times * reads * traffic.expert_bytes * prices.weight_j;
        let worked = kernel.timing.worked;
        match kernel.concurrent.as_ref().and_then(|concurrent| concurrent.env).filter(|_| experts > 0.0) {
            Some(env) => self.divided_weights_j.push((env, experts * worked.hit)),
            None => self.expert_weights_j += experts * worked.hit,
        }
        self.plain[WEIGHTS_J].add(&Poly::constant(experts * worked.rest));
        self.plain[COMPUTE_J].add(&Poly::constant(times * kernel.padding_j * worked.rest));
        for collective in &kernel.collectives {
            self.plain[LINK_J].add(&collective.joules().scaled(times));
        }
        if let Some(Concurrent { ring: Some(ring), stages, .. }) = &kernel.concurrent {
            self.plain[LINK_J].add(&ring.joules().scaled(times * stages));
        }
        self.expert_padding_j += times * kernel.padding_j * worked.hit;
        self.plain[CACHE_J].add(&traffic.cache_written.scaled(times * prices.cache_j));
        let (pairs, reach) = match kernel.mask {
            None => (&mut self.plain, None),
            Some(mask) => {
                let at = self.masked.iter().position(|(other, ..)| *other == mask).unwrap_or_else(|| {
                    self.masked.push((mask, Linear::default(), Linear::default()));
                    self.masked.len() - 1
                });
                let (_, pairs, reach) = &mut self.masked[at];
                (pairs, Some(reach))
            }
        };
        pairs[COMPUTE_J].add(&kernel.compute_j.scaled(times));
        let weights = if reads > 1.0 { &traffic.weights.in_parts(reads) } else { &traffic.weights };
        pairs[WEIGHTS_J].add(&weights.scaled(times * prices.weight_j));
        pairs[ACTIVATIONS_J].add(&traffic.activations.scaled(times * prices.activation_j));
        let cache = traffic.cache_read.scaled(times * prices.cache_j);
        match reach {
            Some(reach) => reach[CACHE_J].add(&cache),
            None => pairs[CACHE_J].add(&cache),
        }
    }
}

/// Seconds of a kernel (Eq. 5.1) as a polynomial, with those that follow the clock, if they are linear.
///
/// They are if work and traffic grow with one and the same monomial: the smooth maximum of both then grows with it too.
fn linear_seconds(kernel: &KernelCost) -> Option<(Poly, Poly)> {
    let timing = &kernel.timing;
    let nonlinear = timing.set.root_s_per_sqrt_byte > 0.0
        || !timing.products.is_empty()
        || timing.attention.is_some()
        || kernel.traffic.expert_bytes > 0.0
        || kernel.mask.is_some();
    if nonlinear {
        return None;
    }
    let [bytes, ..] = kernel.bytes();
    let (moved, worked) = (bytes.terms(), timing.vector.flops.terms());
    if moved.len() > 1 || worked.len() > 1 {
        return None;
    }
    let bits = moved.first().or(worked.first()).map(|(bits, _)| *bits)?;
    if moved.iter().chain(worked).any(|(other, _)| *other != bits) {
        return None;
    }
    let memory = moved.first().map_or(0.0, |(_, c)| c * timing.seconds_per_byte);
    let compute = worked.first().map_or(0.0, |(_, c)| c * timing.vector.seconds_per_flop);
    let mut seconds = Poly::constant(timing.set.t0_s);
    let (longer, clocked) = smooth_maximum(compute, memory, timing.set.sharpness.ilog2());
    seconds.add(&Poly::monomial(bits, longer));
    Some((seconds, Poly::monomial(bits, clocked)))
}
