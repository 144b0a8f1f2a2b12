//! One phase of a mapping, summed wherever it is linear and evaluated once wherever it is equal.
//!
//! Joules are linear in the monomials of a pass, and so are the seconds of kernels whose work and traffic grow with one
//! monomial alone. What is left are the few kernels and collectives whose time bends: each is evaluated once, and counted
//! by the pipeline stages that run it. In decode most of them do not see the context: those are *fixed* by the number of
//! sequences, and kept apart, so that a caller who knows their seconds need not evaluate them again.

use super::collective::Collective;
use super::kernel::{Beside, Env, How, KernelCost, Timed, smooth_maximum};
use super::overlap::{Order, Overlapped};
use crate::numeric::lanes::{LANES, Lane};
use crate::numeric::shape::{Poly, T};

/// Number of sums of a stage: joules of compute, weights, cache, activations, links; then seconds of kernels, of exposed
/// communication, of hidden communication, and those of kernels that follow the clock (where a lock or a cap asks for them).
pub const SUMS: usize = 9;
/// Joules of compute.
pub const COMPUTE_J: usize = 0;
/// Joules of weight bytes.
pub const WEIGHTS_J: usize = 1;
/// Joules of cache bytes.
pub const CACHE_J: usize = 2;
/// Joules of activation bytes.
pub const ACTIVATIONS_J: usize = 3;
/// Joules of communication.
pub const LINK_J: usize = 4;
/// Number of joules, the first of the sums.
pub const JOULES: usize = 5;
/// Seconds of kernels.
pub const KERNEL_S: usize = 5;
/// Seconds of exposed communication.
pub const EXPOSED_S: usize = 6;
/// Seconds of hidden communication.
pub const HIDDEN_S: usize = 7;
/// Seconds of kernels that follow the clock.
pub const CLOCKED_S: usize = 8;

/// Sums of one stage, by [`SUMS`].
pub type Sums<const L: usize = LANES> = [Lane<L>; SUMS];

/// Number of sums that bend: the seconds.
pub const BENT: usize = SUMS - JOULES;

/// Seconds that bend, of one kind of stage, from [`KERNEL_S`] on.
pub type Bent<const L: usize = LANES> = [Lane<L>; BENT];

/// Sums that are linear in the monomials of one basis.
type Linear = [Poly; SUMS];

/// What one kind of pipeline stage sums up linearly.
#[derive(Clone, Debug, Default)]
struct Stage {
    plain: Linear,
    /// By mask: sums over visible pairs, and over the reach into the cache.
    masked: Vec<(usize, Linear, Linear)>,
    expert_weights_j: f64,
    expert_padding_j: f64,
    /// Of experts read once a stage of overlap: by divided environment.
    divided_weights_j: Vec<(usize, f64)>,
}

/// Different items, each with its number of runs by kind of stage.
#[derive(Clone, Debug)]
struct Counted<X> {
    items: Vec<(X, Vec<f64>)>,
}

impl<X> Default for Counted<X> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<X> Counted<X> {
    fn bytes(&self, of: impl Fn(&X) -> usize) -> usize {
        let item = |(item, counts): &(X, Vec<f64>)| {
            size_of::<(X, Vec<f64>)>() + of(item) + counts.capacity() * size_of::<f64>()
        };
        self.items.iter().map(item).sum()
    }
}

impl<X: PartialEq> Counted<X> {
    fn add(&mut self, item: X, stage: usize, times: f64) {
        let at = self.items.iter().position(|(have, _)| *have == item).unwrap_or_else(|| {
            self.items.push((item, Vec::new()));
            self.items.len() - 1
        });
        let counts = &mut self.items[at].1;
        counts.resize(counts.len().max(stage + 1), 0.0);
        counts[stage] += times;
    }
}

/// Everything whose time bends.
#[derive(Clone, Debug, Default)]
struct Bending {
    timed: Counted<Timed>,
    collectives: Counted<Collective>,
    overlapped: Counted<Overlapped>,
}

/// One phase of a mapping.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What bends and does not see t, where that was asked for.
    fixed: Bending,
    /// What else bends.
    moving: Bending,
    stages: Vec<Stage>,
    split: bool,
    clocked: bool,
    bent: usize,
}

impl Bending {
    fn bytes(&self, tables: bool) -> usize {
        let timed = self.timed.bytes(|timed| timed.bytes(tables));
        let collectives = self.collectives.bytes(Collective::bytes);
        let overlapped = self.overlapped.bytes(|own| {
            let kernels = own.kernels.iter().map(|timed| size_of::<Timed>() + timed.bytes(tables));
            let collectives = own.collectives.iter().map(|one| size_of::<Collective>() + one.bytes());
            kernels.chain(collectives).sum()
        });
        timed + collectives + overlapped
    }

    /// Adds the seconds of each kind of stage to `out`.
    #[inline(always)]
    fn evaluate<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>], how: How, out: &mut [Bent<L>]) {
        for (timed, counts) in &self.timed.items {
            let seconds = timed.seconds(env, how);
            add_counted(counts, &seconds.kernel_s, KERNEL_S, out);
            if how.clocked {
                add_counted(counts, &seconds.clocked_s, CLOCKED_S, out);
            }
        }
        for (collective, counts) in &self.collectives.items {
            add_counted(counts, &collective.seconds(env, 1.0, 1.0), EXPOSED_S, out);
        }
        for (overlapped, counts) in &self.overlapped.items {
            let seconds = overlapped.seconds(env, divided, how);
            add_counted(counts, &seconds.kernel_s, KERNEL_S, out);
            add_counted(counts, &seconds.exposed_s, EXPOSED_S, out);
            add_counted(counts, &seconds.hidden_s, HIDDEN_S, out);
            if how.clocked {
                add_counted(counts, &seconds.clocked_s, CLOCKED_S, out);
            }
        }
    }
}

#[inline(always)]
fn add_counted<const L: usize>(counts: &[f64], seconds: &Lane<L>, which: usize, out: &mut [Bent<L>]) {
    for (count, bent) in counts.iter().zip(out) {
        if *count > 0.0 {
            add_times(*count, seconds, &mut bent[which - JOULES]);
        }
    }
}

impl Program {
    /// An empty program; `split` keeps apart what does not see t, `clocked` asks for the seconds that follow the clock.
    pub fn new(split: bool, clocked: bool) -> Self {
        Self { split, clocked, bent: if clocked { BENT } else { HIDDEN_S - JOULES }, ..Self::default() }
    }

    /// Starts the next kind of stage.
    pub fn next_stage(&mut self) {
        self.stages.push(Stage::default());
    }

    /// Adds `times` runs of a block's kernels to the latest kind of stage.
    pub fn add_block<'a>(&mut self, kernels: impl Iterator<Item = &'a KernelCost> + Clone, times: f64) {
        let turns = |kernel: &&KernelCost| kernel.beside.as_ref().is_some_and(|beside| beside.order == Order::Turns);
        if let Some(together) = KernelCost::overlapped(kernels.clone().filter(turns)) {
            self.add_overlapped(together, times);
        }
        for kernel in kernels {
            self.add(kernel, times);
        }
    }

    /// Adds `times` runs of a kernel to the latest kind of stage, but for the time of what takes turns.
    fn add(&mut self, kernel: &KernelCost, times: f64) {
        let latest = self.stages.len().saturating_sub(1);
        let Some(stage) = self.stages.last_mut() else { return };
        stage.add_joules(kernel, times);
        match &kernel.beside {
            Some(Beside { order: Order::Turns, .. }) => {}
            Some(_) => {
                KernelCost::overlapped([kernel]).into_iter().for_each(|one| self.add_overlapped(one, times));
            }
            None => {
                if let Some((seconds, clocked)) = linear_seconds(kernel) {
                    stage.plain[KERNEL_S].add(&seconds.scaled(times));
                    stage.plain[CLOCKED_S].add(&clocked.scaled(times));
                } else {
                    let timed = kernel.timed(&kernel.timing);
                    self.part(timed.sees(T)).timed.add(timed, latest, times);
                }
            }
        }
        for collective in kernel.exposed() {
            self.part(collective.message.sees(T)).collectives.add(collective.clone(), latest, times);
        }
    }

    fn add_overlapped(&mut self, overlapped: Overlapped, times: f64) {
        let latest = self.stages.len().saturating_sub(1);
        self.bent = self.bent.max(CLOCKED_S - JOULES);
        self.part(overlapped.sees(T)).overlapped.add(overlapped, latest, times);
    }

    /// Adds the joules of a collective whose time is not the stage's.
    pub fn add_link(&mut self, collective: &Collective) {
        if let Some(stage) = self.stages.last_mut() {
            stage.plain[LINK_J].add(&collective.joules());
        }
    }

    fn part(&mut self, moving: bool) -> &mut Bending {
        if moving || !self.split { &mut self.moving } else { &mut self.fixed }
    }

    /// Bytes it takes, about; with what tables it will have, if it is used with them.
    pub fn bytes(&self, tables: bool) -> usize {
        let linear = |linear: &Linear| linear.iter().map(Poly::bytes).sum::<usize>();
        let stage = |stage: &Stage| {
            let masked = |(_, pairs, reach): &(usize, Linear, Linear)| {
                size_of::<(usize, Linear, Linear)>() + linear(pairs) + linear(reach)
            };
            size_of::<Stage>() + linear(&stage.plain) + stage.masked.iter().map(masked).sum::<usize>()
        };
        let parts = [&self.fixed, &self.moving].map(|part| part.bytes(tables));
        self.stages.iter().map(stage).sum::<usize>() + parts.iter().sum::<usize>()
    }

    /// How many of the seconds that bend it has.
    pub fn bent(&self) -> usize {
        self.bent
    }

    /// Whether it has seconds of hidden communication, zero perhaps.
    pub fn hides(&self) -> bool {
        self.bent > HIDDEN_S - JOULES
    }

    /// Evaluates what bends and, of what is kept apart, does not see the context.
    #[inline(always)]
    pub fn fix<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>], tables: bool, out: &mut [Bent<L>]) {
        self.start(out);
        self.fixed.evaluate(env, divided, How { tables, clocked: self.clocked }, out);
    }

    /// Evaluates what else bends.
    #[inline(always)]
    pub fn bend<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>], tables: bool, out: &mut [Bent<L>]) {
        self.start(out);
        self.moving.evaluate(env, divided, How { tables, clocked: self.clocked }, out);
    }

    #[inline(always)]
    fn start<const L: usize>(&self, out: &mut [Bent<L>]) {
        for lane in out.iter_mut().flat_map(|own| own.iter_mut().take(self.bent)) {
            *lane = [0.0; L];
        }
    }

    /// Sums of one kind of stage, given what bends in it; those it does not have are left as they are.
    #[inline(always)]
    pub fn sum<const L: usize>(
        &self,
        kind: usize,
        (env, divided): (&Env<L>, &[Env<L>]),
        fixed: &Bent<L>,
        moving: &Bent<L>,
        sums: &mut Sums<L>,
    ) {
        let Some(stage) = self.stages.get(kind) else { return };
        let used = JOULES + self.bent;
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
        for (sum, (fixed, moving)) in sums.iter_mut().skip(JOULES).zip(fixed.iter().zip(moving)).take(self.bent) {
            for i in 0..L {
                sum[i] += if self.split { fixed[i] + moving[i] } else { moving[i] };
            }
        }
    }
}

#[inline(always)]
fn add_times<const L: usize>(times: f64, lane: &Lane<L>, sum: &mut Lane<L>) {
    for i in 0..L {
        sum[i] += times * lane[i];
    }
}

impl Stage {
    fn add_joules(&mut self, kernel: &KernelCost, times: f64) {
        let (traffic, prices, reads) = (&kernel.traffic, &kernel.prices, kernel.reads());
        let experts = times * reads * traffic.expert_bytes * prices.weight_j;
        let worked = kernel.timing.worked;
        match kernel.beside.as_ref().and_then(|beside| beside.env).filter(|_| experts > 0.0) {
            Some(env) => self.divided_weights_j.push((env, experts * worked.hit)),
            None => self.expert_weights_j += experts * worked.hit,
        }
        self.plain[WEIGHTS_J].add(&Poly::constant(experts * worked.rest));
        self.plain[COMPUTE_J].add(&Poly::constant(times * kernel.padding_j * worked.rest));
        for collective in &kernel.collectives {
            self.plain[LINK_J].add(&collective.joules().scaled(times));
        }
        if let Some(Beside { ring: Some(ring), stages, .. }) = &kernel.beside {
            self.plain[LINK_J].add(&ring.joules().scaled(times * stages));
        }
        self.expert_padding_j += times * kernel.padding_j * worked.hit;
        self.plain[CACHE_J].add(&traffic.cache_written.scaled(times * prices.cache_j));
        let (pairs, reach) = match kernel.mask {
            None => (&mut self.plain, None),
            Some(mask) => {
                let at = self.masked.iter().position(|(have, ..)| *have == mask).unwrap_or_else(|| {
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

/// Seconds as a polynomial, with those that follow the clock, if work and traffic grow with one and the same monomial and
/// nothing bends them.
fn linear_seconds(kernel: &KernelCost) -> Option<(Poly, Poly)> {
    let timing = &kernel.timing;
    let bends = timing.set.root_s_per_sqrt_byte > 0.0
        || !timing.products.is_empty()
        || timing.attention.is_some()
        || kernel.traffic.expert_bytes > 0.0
        || kernel.mask.is_some();
    if bends {
        return None;
    }
    let [bytes, ..] = kernel.bytes();
    let (moved, worked) = (bytes.terms(), timing.vector.flops.terms());
    if moved.len() > 1 || worked.len() > 1 {
        return None;
    }
    let bits = moved.first().or(worked.first()).map(|(bits, _)| *bits)?;
    if moved.iter().chain(worked).any(|(own, _)| *own != bits) {
        return None;
    }
    let memory = moved.first().map_or(0.0, |(_, c)| c * timing.seconds_per_byte);
    let compute = worked.first().map_or(0.0, |(_, c)| c * timing.vector.seconds_per_flop);
    let mut seconds = Poly::constant(timing.set.t0_s);
    let (longer, clocked) = smooth_maximum(compute, memory, timing.set.sharpness.ilog2());
    seconds.add(&Poly::monomial(bits, longer));
    Some((seconds, Poly::monomial(bits, clocked)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::lanes::Basis;
    use crate::numeric::lanes::ZERO;

    #[test]
    fn equal_parts_are_kept_once() {
        let mut list = Counted::default();
        for (item, stage) in [(7, 0), (8, 0), (7, 2)] {
            list.add(item, stage, 1.5);
        }
        assert_eq!(list.items, [(7, vec![1.5, 0.0, 1.5]), (8, vec![1.5])]);
        let basis = Basis::new(&[2.0; LANES], &[3.0; LANES], &ZERO, &ZERO);
        let mut lane = [9.0; LANES];
        basis.set(&Poly::monomial(3, 5.0), &mut lane);
        assert_eq!(lane[0], 30.0);
    }
}
