//! One phase of a mapping, summed wherever it is linear and evaluated once wherever it is equal.
//!
//! Joules are linear in the monomials of a pass, and so are the seconds of kernels whose work and traffic grow with one
//! monomial alone. What is left are the few kernels and collectives whose time bends: each is evaluated once, and counted
//! by the pipeline stages that run it. In decode most of them do not see the context: those are *fixed* by the number of
//! sequences, and kept apart, so that a caller who knows their seconds need not evaluate them again.

use super::collective::Collective;
use super::kernel::{Env, KernelCost, Timing, smooth_maximum};
use super::lanes::{LANES, Lane};
use crate::einsum::shape::{Poly, T};

/// Number of sums of a stage: kernel seconds, exposed seconds, then joules of compute, weights, cache, activations, links.
pub const SUMS: usize = 7;
const KERNEL_S: usize = 0;
const EXPOSED_S: usize = 1;
const COMPUTE_J: usize = 2;
const WEIGHTS_J: usize = 3;
const CACHE_J: usize = 4;
const ACTIVATIONS_J: usize = 5;
const LINK_J: usize = 6;

/// Sums of one stage, by [`SUMS`].
pub type Sums<const L: usize = LANES> = [Lane<L>; SUMS];

/// Seconds that bend, of one kind of stage: kernels, then exposed collectives.
pub type Bent<const L: usize = LANES> = [Lane<L>; 2];

/// Sums that are linear in the monomials of one basis.
type Linear = [Poly; SUMS];

/// A kernel whose time bends.
#[derive(Clone, Debug, PartialEq)]
struct Timed {
    timing: Timing,
    /// Bytes over unmasked monomials, over visible pairs, and over the reach into the cache.
    bytes: [Poly; 3],
    expert_bytes: f64,
    mask: Option<usize>,
}

/// What one kind of pipeline stage sums up linearly.
#[derive(Clone, Debug, Default)]
struct Stage {
    plain: Linear,
    /// By mask: sums over visible pairs, and over the reach into the cache.
    masked: Vec<(usize, Linear, Linear)>,
    expert_weights_j: f64,
    expert_padding_j: f64,
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
pub struct Bending {
    timed: Counted<Timed>,
    collectives: Counted<Collective>,
    staged: Counted<KernelCost>,
}

/// One phase of a mapping.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What bends and does not see t, where that was asked for.
    pub fixed: Bending,
    /// What else bends.
    pub moving: Bending,
    stages: Vec<Stage>,
    split: bool,
}

impl Bending {
    /// Adds the seconds of each kind of stage to `out`; `tables` lets matrix products be looked up, with the same bits.
    #[inline(always)]
    pub fn evaluate<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>], tables: bool, out: &mut [Bent<L>]) {
        for (timed, counts) in &self.timed.items {
            let mut seconds = [0.0; L];
            timed.seconds(env, tables, &mut seconds);
            add_counted(counts, &seconds, KERNEL_S, out);
        }
        for (collective, counts) in &self.collectives.items {
            add_counted(counts, &collective.seconds(&env.plain, 1.0, 1.0), EXPOSED_S, out);
        }
        for (kernel, counts) in &self.staged.items {
            let cost = kernel.cost(env, divided);
            add_counted(counts, &cost.kernel_s, KERNEL_S, out);
            add_counted(counts, &cost.exposed_s, EXPOSED_S, out);
        }
    }
}

#[inline(always)]
fn add_counted<const L: usize>(counts: &[f64], seconds: &Lane<L>, which: usize, out: &mut [Bent<L>]) {
    for (count, bent) in counts.iter().zip(out) {
        if *count > 0.0 {
            add_times(*count, seconds, &mut bent[which]);
        }
    }
}

impl Program {
    /// An empty program; `split` keeps apart what does not see t.
    pub fn new(split: bool) -> Self {
        Self { split, ..Self::default() }
    }

    /// Starts the next kind of stage.
    pub fn next_stage(&mut self) {
        self.stages.push(Stage::default());
    }

    /// Adds `times` runs of a kernel to the latest kind of stage.
    pub fn add(&mut self, kernel: &KernelCost, times: f64) {
        let latest = self.stages.len().saturating_sub(1);
        let Some(stage) = self.stages.last_mut() else { return };
        stage.add_joules(kernel, times);
        if kernel.staging.is_some() && !kernel.collectives.is_empty() {
            for collective in &kernel.collectives {
                stage.plain[LINK_J].add(&collective.joules().scaled(times));
            }
            let moving = kernel.sees(T) || kernel.collectives.iter().any(|c| c.message.sees(T));
            self.part(moving).staged.add(kernel.clone(), latest, times);
            return;
        }
        let traffic = &kernel.traffic;
        let mut pairs = traffic.weights.clone();
        pairs.add(&traffic.activations);
        let mut plain = traffic.cache_written.clone();
        let bytes = if kernel.mask.is_some() {
            [plain, pairs, traffic.cache_read.clone()]
        } else {
            plain.add(&pairs);
            plain.add(&traffic.cache_read);
            [plain, Poly::default(), Poly::default()]
        };
        if let Some(seconds) = linear_seconds(kernel, &bytes[0]) {
            stage.plain[KERNEL_S].add(&seconds.scaled(times));
        } else {
            let expert_bytes = traffic.expert_bytes;
            let timed = Timed { timing: kernel.timing.clone(), bytes, expert_bytes, mask: kernel.mask };
            self.part(kernel.sees(T)).timed.add(timed, latest, times);
        }
        for collective in &kernel.collectives {
            self.add_collective(collective, times);
        }
    }

    /// Adds `times` runs of a collective to the latest kind of stage.
    pub fn add_collective(&mut self, collective: &Collective, times: f64) {
        let latest = self.stages.len().saturating_sub(1);
        self.part(collective.message.sees(T)).collectives.add(collective.clone(), latest, times);
        if let Some(stage) = self.stages.last_mut() {
            stage.plain[LINK_J].add(&collective.joules().scaled(times));
        }
    }

    fn part(&mut self, moving: bool) -> &mut Bending {
        if moving || !self.split { &mut self.moving } else { &mut self.fixed }
    }

    /// Sums of one kind of stage, given what bends in it.
    #[inline(always)]
    pub fn sum<const L: usize>(
        &self,
        kind: usize,
        env: &Env<L>,
        fixed: &Bent<L>,
        moving: &Bent<L>,
        sums: &mut Sums<L>,
    ) {
        let Some(stage) = self.stages.get(kind) else { return };
        for (sum, poly) in sums.iter_mut().zip(&stage.plain) {
            env.plain.set(poly, sum);
        }
        for (mask, pairs, reach) in &stage.masked {
            let (pairs_basis, reach_basis) = env.bases(Some(*mask));
            for (sum, poly) in sums.iter_mut().zip(pairs) {
                pairs_basis.add(poly, 1.0, sum);
            }
            for (sum, poly) in sums.iter_mut().zip(reach) {
                reach_basis.add(poly, 1.0, sum);
            }
        }
        if stage.expert_weights_j > 0.0 {
            add_times(stage.expert_weights_j, &env.hits, &mut sums[WEIGHTS_J]);
        }
        if stage.expert_padding_j > 0.0 {
            add_times(stage.expert_padding_j, &env.hits, &mut sums[COMPUTE_J]);
        }
        for which in [KERNEL_S, EXPOSED_S] {
            for i in 0..L {
                sums[which][i] += fixed[which][i] + moving[which][i];
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

impl Timed {
    #[inline(always)]
    fn seconds<const L: usize>(&self, env: &Env<L>, tables: bool, out: &mut Lane<L>) {
        let (pairs, reach) = env.bases(self.mask);
        let mut bytes = [0.0; L];
        env.plain.set(&self.bytes[0], &mut bytes);
        if self.mask.is_some() {
            pairs.add(&self.bytes[1], 1.0, &mut bytes);
            reach.add(&self.bytes[2], 1.0, &mut bytes);
        }
        if self.expert_bytes > 0.0 {
            add_times(self.expert_bytes, &env.hits, &mut bytes);
        }
        *out = self.timing.seconds(pairs, env, &bytes, tables);
    }
}

impl Stage {
    fn add_joules(&mut self, kernel: &KernelCost, times: f64) {
        let (traffic, prices) = (&kernel.traffic, &kernel.prices);
        self.expert_weights_j += times * traffic.expert_bytes * prices.weight_j;
        self.expert_padding_j += times * kernel.padding_j;
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
        pairs[WEIGHTS_J].add(&traffic.weights.scaled(times * prices.weight_j));
        pairs[ACTIVATIONS_J].add(&traffic.activations.scaled(times * prices.activation_j));
        let cache = traffic.cache_read.scaled(times * prices.cache_j);
        match reach {
            Some(reach) => reach[CACHE_J].add(&cache),
            None => pairs[CACHE_J].add(&cache),
        }
    }
}

/// Seconds as a polynomial, if work and traffic grow with one and the same monomial and nothing bends them.
fn linear_seconds(kernel: &KernelCost, bytes: &Poly) -> Option<Poly> {
    let timing = &kernel.timing;
    let bends = timing.set.root_s_per_sqrt_byte > 0.0
        || !timing.products.is_empty()
        || timing.attention.is_some()
        || kernel.traffic.expert_bytes > 0.0
        || kernel.mask.is_some();
    let (moved, worked) = (bytes.terms(), timing.vector.flops.terms());
    if bends || moved.len() > 1 || worked.len() > 1 {
        return None;
    }
    let bits = moved.first().or(worked.first()).map(|(bits, _)| *bits)?;
    if moved.iter().chain(worked).any(|(own, _)| *own != bits) {
        return None;
    }
    let memory = moved.first().map_or(0.0, |(_, c)| c * timing.seconds_per_byte);
    let compute = worked.first().map_or(0.0, |(_, c)| c * timing.vector.seconds_per_flop);
    let mut seconds = Poly::constant(timing.set.t0_s);
    seconds.add(&Poly::monomial(bits, smooth_maximum(compute, memory, timing.set.sharpness.ilog2())));
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::lanes::Basis;
    use crate::cost::lanes::ZERO;

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
