//! The seconds of one kernel: its work, its bytes and its launch (Eq. 5.1, 5.2, 5.3, 5.4).

use super::attention::Attention;
use super::elementwise::Vector;
use super::env::Env;
use super::gemm::{Product, Tiling};
use crate::hardware::kernels::TimeSet;
use crate::numeric::lanes::{Basis, Lane};
use crate::numeric::shape::Poly;

/// What makes a kernel take time, on one GPU (Eq. 5.1). Polynomials are in the tokens of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Coefficients of its class and format.
    pub set: TimeSet,
    /// Seconds per byte at the bandwidth reached: `1/(β·η_m)` of Eq. 5.3.
    pub seconds_per_byte: f64,
    /// Tiles and SMs that its products choose from.
    pub tiling: Tiling,
    /// Matrix products; those that read the same left operand are one.
    pub products: Vec<Product>,
    /// Fused attention, in a kernel of that class.
    pub attention: Option<Attention>,
    /// Vector work; none in attention, whose measured times hold its softmax.
    pub vector: Vector,
    /// Seconds added outside the maximum: quantising inputs (Eq. 5.6), sorting tokens by expert (Eq. 6.9).
    pub added: Poly,
    /// Seconds added for each expert worked on (Eq. 6.9).
    pub expert_s: f64,
    /// How many experts it works on.
    pub worked: WorkedExperts,
}

/// Experts worked on, those hit and a share ι of the others: `(1 − ι)·E + ι·X_ℓ` (Eq. 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkedExperts {
    /// Factor of those hit: `1 − ι`.
    pub hit: f64,
    /// What is added whatever is hit: `ι·X_ℓ`.
    pub rest: f64,
}

impl WorkedExperts {
    /// From the experts of a GPU (X_ℓ) and the share of those not hit that is worked on all the same (ι).
    pub fn new(local: f64, idle: f64) -> Self {
        Self { hit: 1.0 - idle, rest: idle * local }
    }

    /// Experts worked on where `hits` are hit (Eq. 6.7).
    #[inline(always)]
    pub fn of(self, hits: f64) -> f64 {
        self.hit * hits + self.rest
    }
}

/// A kernel whose time is nonlinear in batch and lengths, with all that its time depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedKernel {
    timing: Timing,
    /// Bytes over plain monomials, over visible pairs, and over the tokens read from the cache.
    pub bytes: [Poly; 3],
    /// Bytes of one expert's weights, read for each expert worked on.
    expert_bytes: f64,
    /// Mask, as an index into the environment's.
    mask: Option<usize>,
}

/// What is computed besides the seconds of kernels, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimingOptions {
    /// Whether matrix products are looked up by rows, with the same bits.
    pub tables: bool,
    /// Whether the seconds that follow the clock are computed too.
    pub clocked: bool,
}

/// Seconds of a kernel (Eq. 5.1).
#[derive(Clone, Debug)]
pub struct KernelSeconds<const L: usize> {
    /// All of them.
    pub kernel_s: Lane<L>,
    /// Those that get longer as the clock falls: `τ_c·∂τ/∂τ_c` (Eq. 11.5); 0 where they are not computed.
    pub clocked_s: Lane<L>,
}

/// The smooth maximum of a and b (Eq. 5.2) and the part of it that follows a (Eq. 11.5).
///
/// The sharpness is two to the `doublings`, so that squares and square roots do: they round alike on every machine, which
/// a power function need not.
#[inline(always)]
pub fn smooth_maximum(a: f64, b: f64, doublings: u32) -> (f64, f64) {
    let KernelSeconds { kernel_s: [maximum], clocked_s: [clocked] } = smooth_maxima(&[a], &[b], doublings, true);
    (maximum, clocked)
}

/// [`smooth_maximum`] of all lanes; the part that follows a only where `clocked`.
#[inline(always)]
fn smooth_maxima<const L: usize>(a: &Lane<L>, b: &Lane<L>, doublings: u32, clocked: bool) -> KernelSeconds<L> {
    let (mut large, mut ratio, mut share) = ([0.0; L], [0.0; L], [0.0; L]);
    for i in 0..L {
        let (more, less) = if a[i] > b[i] { (a[i], b[i]) } else { (b[i], a[i]) };
        large[i] = more;
        ratio[i] = if more > 0.0 { less / more } else { 0.0 };
    }
    for _ in 0..doublings {
        for i in 0..L {
            ratio[i] *= ratio[i];
        }
    }
    if clocked {
        for i in 0..L {
            share[i] = if a[i] > b[i] { 1.0 } else { ratio[i] } / (1.0 + ratio[i]);
        }
    }
    for i in 0..L {
        ratio[i] += 1.0;
    }
    for _ in 0..doublings {
        for i in 0..L {
            ratio[i] = ratio[i].sqrt();
        }
    }
    for i in 0..L {
        large[i] *= ratio[i];
    }
    if clocked {
        for i in 0..L {
            share[i] *= large[i];
        }
    }
    KernelSeconds { kernel_s: large, clocked_s: share }
}

impl Timing {
    /// Seconds of a kernel that moves so many `bytes` (Eq. 5.1); `pairs` is the basis under its mask.
    #[inline(always)]
    fn seconds<const L: usize>(
        &self,
        pairs: &Basis<L>,
        env: &Env<L>,
        bytes: &Lane<L>,
        options: TimingOptions,
    ) -> KernelSeconds<L> {
        let doublings = self.set.sharpness.ilog2();
        let (compute_s, memory_s) = (self.compute_s(pairs, env, options.tables), self.memory_s(bytes));
        let mut out = smooth_maxima(&compute_s, &memory_s, doublings, options.clocked);
        let kernel_s = &mut out.kernel_s;
        for i in 0..L {
            kernel_s[i] += self.set.t0_s;
        }
        pairs.add(&self.added, 1.0, kernel_s);
        if self.expert_s > 0.0 {
            for i in 0..L {
                kernel_s[i] += self.expert_s * self.worked.of(env.busy_hits[i]);
            }
        }
        out
    }

    /// Seconds of its work alone (Eq. 5.4).
    #[inline(always)]
    fn compute_s<const L: usize>(&self, pairs: &Basis<L>, env: &Env<L>, tables: bool) -> Lane<L> {
        let mut compute = [0.0; L];
        for product in &self.products {
            self.tiling.add(product, pairs, (&env.places, &env.busy_hits), tables, &mut compute);
        }
        if let Some(attention) = &self.attention {
            attention.add(pairs, self.tiling.sms, &mut compute);
        }
        self.vector.add(pairs, &mut compute);
        compute
    }

    /// Seconds of its bytes alone (Eq. 5.3).
    #[inline(always)]
    fn memory_s<const L: usize>(&self, bytes: &Lane<L>) -> Lane<L> {
        let mut memory = [0.0; L];
        for i in 0..L {
            memory[i] = bytes[i] * self.seconds_per_byte;
        }
        if self.set.root_s_per_sqrt_byte > 0.0 {
            for i in 0..L {
                memory[i] += self.set.root_s_per_sqrt_byte * bytes[i].sqrt();
            }
        }
        memory
    }
}

impl TimedKernel {
    /// A kernel with its timing, bytes (by basis), bytes of an expert and mask.
    pub(super) fn new(timing: Timing, bytes: [Poly; 3], expert_bytes: f64, mask: Option<usize>) -> Self {
        Self { timing, bytes, expert_bytes, mask }
    }

    /// Bytes it holds in memory, about; with the tables it will have, if it is used with them.
    pub fn bytes(&self, tables: bool) -> usize {
        let timing = &self.timing;
        let tiles = (timing.set.tiles.capacity() + timing.tiling.tiles.capacity()) * size_of::<(f64, f64, f64)>();
        let products: usize = timing.products.iter().map(|product| size_of::<Product>() + product.bytes(tables)).sum();
        let polynomials = self.bytes.iter().chain([&timing.added, &timing.vector.flops]);
        tiles + products + polynomials.map(Poly::bytes).sum::<usize>()
    }

    /// Whether its time depends on a variable, by its bit in the monomials.
    pub fn depends_on(&self, bit: u8) -> bool {
        let timing = &self.timing;
        let products = timing.products.iter().flat_map(|p| [&p.batch, &p.rows, &p.columns, &p.depth]);
        let attention = timing.attention.iter().flat_map(|a| [&a.seconds, &a.heads, &a.sequences]);
        let mut all = products.chain(attention).chain(&self.bytes).chain([&timing.vector.flops, &timing.added]);
        self.mask.is_some() || all.any(|poly| poly.depends_on(bit))
    }

    /// Its seconds (Eq. 5.1).
    #[inline(always)]
    pub fn seconds<const L: usize>(&self, env: &Env<L>, options: TimingOptions) -> KernelSeconds<L> {
        self.timing.seconds(env.bases(self.mask).0, env, &self.moved(env), options)
    }

    /// Seconds it would take by its work, by its bytes and by its launch alone, in the first lane.
    pub fn bounds<const L: usize>(&self, env: &Env<L>) -> [f64; 3] {
        let compute = self.timing.compute_s(env.bases(self.mask).0, env, false);
        [compute[0], self.timing.memory_s(&self.moved(env))[0], self.timing.set.t0_s]
    }

    /// HBM bytes that take its time: Q of Eq. 5.3, with the experts of the busiest GPU (Eq. 6.10).
    #[inline(always)]
    pub fn moved<const L: usize>(&self, env: &Env<L>) -> Lane<L> {
        let (pairs, reach) = env.bases(self.mask);
        let mut bytes = [0.0; L];
        env.plain.set(&self.bytes[0], &mut bytes);
        if self.mask.is_some() {
            pairs.add(&self.bytes[1], 1.0, &mut bytes);
            reach.add(&self.bytes[2], 1.0, &mut bytes);
        }
        if self.expert_bytes > 0.0 {
            for i in 0..L {
                bytes[i] += self.expert_bytes * self.timing.worked.of(env.busy_hits[i]);
            }
        }
        bytes
    }
}
