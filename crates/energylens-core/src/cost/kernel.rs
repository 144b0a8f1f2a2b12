//! One kernel with the collectives behind it: seconds and joules of a block of points.

use super::attention::Attention;
use super::collective::Collective;
use super::elementwise::Vector;
pub use super::env::{Env, Experts};
use super::gemm::{Product, Tiling};
use super::overlap::{Order, Overlapped};
use crate::hardware::kernels::TimeSet;
use crate::hardware::link::Contention;
use crate::numeric::lanes::{Basis, LANES, Lane};
use crate::numeric::shape::Poly;

/// What makes a kernel take time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Coefficients.
    pub set: TimeSet,
    /// Seconds per byte at the reached bandwidth.
    pub seconds_per_byte: f64,
    /// Tiles and SMs.
    pub tiling: Tiling,
    /// Matrix products, merged.
    pub products: Vec<Product>,
    /// Fused attention.
    pub attention: Option<Attention>,
    /// Vector work.
    pub vector: Vector,
    /// Seconds added to the rest: quantising inputs, sorting tokens by expert.
    pub added: Poly,
    /// Seconds added for each expert worked on.
    pub expert_s: f64,
    /// Experts worked on.
    pub worked: Worked,
}

/// Experts worked on: those hit, and a share of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worked {
    /// Share of those hit, the rest being of all.
    pub hit: f64,
    /// Others, if none were hit.
    pub rest: f64,
}

impl Worked {
    /// Of `local` experts a share of those not hit too.
    pub fn new(local: f64, idle: f64) -> Self {
        Self { hit: 1.0 - idle, rest: idle * local }
    }

    /// How many.
    #[inline(always)]
    pub fn of(self, hits: f64) -> f64 {
        self.hit * hits + self.rest
    }
}

/// Bytes a kernel moves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Weights.
    pub weights: Poly,
    /// One expert's weights, for each hit.
    pub expert_bytes: f64,
    /// Cache read, over the reach of the mask.
    pub cache_read: Poly,
    /// Cache written.
    pub cache_written: Poly,
    /// Activations.
    pub activations: Poly,
}

impl Traffic {
    /// A share of it.
    #[must_use]
    pub fn scaled(&self, share: f64) -> Self {
        Self {
            weights: self.weights.scaled(share),
            expert_bytes: self.expert_bytes * share,
            cache_read: self.cache_read.scaled(share),
            cache_written: self.cache_written.scaled(share),
            activations: self.activations.scaled(share),
        }
    }
}

/// A kernel whose time bends.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    timing: Timing,
    /// Bytes over unmasked monomials, over visible pairs, and over the reach into the cache.
    pub bytes: [Poly; 3],
    expert_bytes: f64,
    mask: Option<usize>,
}

/// A kernel that runs beside collectives.
#[derive(Clone, Debug, PartialEq)]
pub struct Beside {
    /// Who waits for whom.
    pub order: Order,
    /// Its time meanwhile.
    pub timing: Timing,
    /// Stages, micro-batches, messages of a ring.
    pub stages: f64,
    /// How many times slower its collectives are than on the SMs they want.
    pub slower: f64,
    /// Share of the communication's watts drawn.
    pub drawing: f64,
    /// Which divided environment it uses; none is the whole one.
    pub env: Option<usize>,
    /// Messages passing by.
    pub ring: Option<Collective>,
    /// Contention.
    pub contention: Contention,
}

/// What a kernel computes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flops {
    /// FLOPs, without padding.
    pub count: Poly,
    /// Most a second of its arithmetic: that of its first product, of vector work if it has none.
    pub peak_per_s: f64,
}

/// Prices of a byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Weights.
    pub weight_j: f64,
    /// Cache.
    pub cache_j: f64,
    /// Activations.
    pub activation_j: f64,
}

/// One kernel of one mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelCost {
    /// Time.
    pub timing: Timing,
    /// Bytes.
    pub traffic: Traffic,
    /// Mask, as an index into the environment's.
    pub mask: Option<usize>,
    /// What it computes, told but not timed by.
    pub flops: Flops,
    /// Joules of FLOPs and on-chip bytes.
    pub compute_j: Poly,
    /// Joules of FLOPs on padding, for each expert hit.
    pub padding_j: f64,
    /// Prices.
    pub prices: Prices,
    /// Collectives behind it.
    pub collectives: Vec<Collective>,
    /// What it runs beside.
    pub beside: Option<Beside>,
}

/// Seconds and joules of one GPU.
#[derive(Clone, Debug)]
pub struct Cost<const L: usize = LANES> {
    /// Kernel seconds.
    pub kernel_s: Lane<L>,
    /// Exposed seconds of collectives.
    pub exposed_s: Lane<L>,
    /// FLOPs and on-chip bytes.
    pub compute_j: Lane<L>,
    /// Weight bytes.
    pub weights_j: Lane<L>,
    /// Cache bytes.
    pub cache_j: Lane<L>,
    /// Activation bytes.
    pub activations_j: Lane<L>,
    /// Link bytes.
    pub link_j: Lane<L>,
    /// Seconds of drawing the communication's watts, besides the exposed ones.
    pub hidden_s: Lane<L>,
}

impl<const L: usize> Cost<L> {
    /// Nothing.
    pub const NONE: Self = Self {
        kernel_s: [0.0; L],
        exposed_s: [0.0; L],
        compute_j: [0.0; L],
        weights_j: [0.0; L],
        cache_j: [0.0; L],
        activations_j: [0.0; L],
        link_j: [0.0; L],
        hidden_s: [0.0; L],
    };
}

/// How kernels are timed.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Whether matrix products are looked up by rows, with the same bits.
    pub tables: bool,
    /// Whether the seconds that follow the clock are asked for.
    pub clocked: bool,
}

/// Seconds of a kernel.
#[derive(Clone, Debug)]
pub struct KernelSeconds<const L: usize> {
    /// All.
    pub kernel_s: Lane<L>,
    /// Those that follow the clock: the seconds of its work times what a longer one lengthens it, `C·∂t/∂C`.
    pub clocked_s: Lane<L>,
}

/// `(a^p + b^p)^(1/p)` for p a power of two, exact in every operation, and what of it follows a: `a^p/(a^p + b^p)` of it.
#[inline(always)]
pub fn smooth_maximum(a: f64, b: f64, doublings: u32) -> (f64, f64) {
    let KernelSeconds { kernel_s: [maximum], clocked_s: [clocked] } = smooth_maxima(&[a], &[b], doublings, true);
    (maximum, clocked)
}

/// [`smooth_maximum`] of all lanes, what follows a where it is asked for.
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
    /// Seconds for given bytes.
    #[inline(always)]
    fn seconds<const L: usize>(&self, pairs: &Basis<L>, env: &Env<L>, bytes: &Lane<L>, how: How) -> KernelSeconds<L> {
        let doublings = self.set.sharpness.ilog2();
        let (compute_s, memory_s) = (self.compute_s(pairs, env, how.tables), self.memory_s(bytes));
        let mut out = smooth_maxima(&compute_s, &memory_s, doublings, how.clocked);
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

    /// Seconds of its work alone.
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

    /// Seconds of its bytes alone.
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

impl Timed {
    /// Bytes of its parts, about; with what tables it will have, if it is used with them.
    pub fn bytes(&self, tables: bool) -> usize {
        let timing = &self.timing;
        let tiles = (timing.set.tiles.capacity() + timing.tiling.tiles.capacity()) * size_of::<(f64, f64, f64)>();
        let products: usize = timing.products.iter().map(|product| size_of::<Product>() + product.bytes(tables)).sum();
        let polynomials = self.bytes.iter().chain([&timing.added, &timing.vector.flops]);
        tiles + products + polynomials.map(Poly::bytes).sum::<usize>()
    }

    /// Whether its time depends on a variable, given as a bit of the monomials.
    pub fn sees(&self, bit: u8) -> bool {
        let timing = &self.timing;
        let products = timing.products.iter().flat_map(|p| [&p.batch, &p.rows, &p.columns, &p.depth]);
        let attention = timing.attention.iter().flat_map(|a| [&a.seconds, &a.heads, &a.sequences]);
        let mut all = products.chain(attention).chain(&self.bytes).chain([&timing.vector.flops, &timing.added]);
        self.mask.is_some() || all.any(|poly| poly.sees(bit))
    }

    /// Its seconds.
    #[inline(always)]
    pub fn seconds<const L: usize>(&self, env: &Env<L>, how: How) -> KernelSeconds<L> {
        self.timing.seconds(env.bases(self.mask).0, env, &self.moved(env), how)
    }

    /// What it would take by its work, by its bytes and by its launch alone, in the first lane.
    pub fn bounds<const L: usize>(&self, env: &Env<L>) -> [f64; 3] {
        let compute = self.timing.compute_s(env.bases(self.mask).0, env, false);
        [compute[0], self.timing.memory_s(&self.moved(env))[0], self.timing.set.t0_s]
    }

    /// Bytes it moves.
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

impl KernelCost {
    /// Its time, by itself or as another timing has it.
    pub fn timed(&self, timing: &Timing) -> Timed {
        let (bytes, expert_bytes) = (self.bytes(), self.traffic.expert_bytes);
        Timed { timing: timing.clone(), bytes, expert_bytes, mask: self.mask }
    }

    /// Bytes over unmasked monomials, over visible pairs, and over the reach into the cache.
    pub fn bytes(&self) -> [Poly; 3] {
        let traffic = &self.traffic;
        let mut pairs = traffic.weights.clone();
        pairs.add(&traffic.activations);
        let mut plain = traffic.cache_written.clone();
        if self.mask.is_some() {
            [plain, pairs, traffic.cache_read.clone()]
        } else {
            plain.add(&pairs);
            plain.add(&traffic.cache_read);
            [plain, Poly::default(), Poly::default()]
        }
    }

    /// How often its weights are read.
    pub fn reads(&self) -> f64 {
        self.beside.as_ref().filter(|beside| beside.order != Order::Ring).map_or(1.0, |beside| beside.stages)
    }

    /// Kernels of one or several that run beside collectives together, with those collectives.
    pub fn overlapped<'a>(kernels: impl IntoIterator<Item = &'a Self>) -> Option<Overlapped> {
        let mut found: Option<Overlapped> = None;
        for kernel in kernels {
            let beside = kernel.beside.as_ref()?;
            let own: &[Collective] = match (beside.order, &beside.ring) {
                (Order::Ring, ring) => ring.as_slice(),
                (Order::Stages, _) => kernel.collectives.get(..1).unwrap_or(&[]),
                (Order::Turns, _) => &kernel.collectives,
            };
            let together = found.get_or_insert_with(|| Overlapped {
                kernels: Vec::new(),
                collectives: Vec::new(),
                order: beside.order,
                stages: beside.stages,
                slower: beside.slower,
                drawing: beside.drawing,
                env: beside.env,
                contention: beside.contention,
            });
            together.kernels.push(kernel.timed(&beside.timing));
            together.collectives.extend_from_slice(own);
        }
        found
    }

    /// Collectives after it that nothing runs beside.
    pub fn exposed(&self) -> &[Collective] {
        let hidden = match self.beside.as_ref().map(|beside| beside.order) {
            None | Some(Order::Ring) => 0,
            Some(Order::Stages) => 1,
            Some(Order::Turns) => self.collectives.len(),
        };
        self.collectives.get(hidden..).unwrap_or(&[])
    }

    /// Seconds and joules of every lane.
    pub fn cost<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>]) -> Cost<L> {
        let (pairs, reach) = env.bases(self.mask);
        let mut cost = Cost::NONE;
        pairs.add(&self.compute_j, 1.0, &mut cost.compute_j);
        pairs.add(&self.traffic.weights.in_parts(self.reads()), self.prices.weight_j, &mut cost.weights_j);
        pairs.add(&self.traffic.activations, self.prices.activation_j, &mut cost.activations_j);
        reach.add(&self.traffic.cache_read, self.prices.cache_j, &mut cost.cache_j);
        env.plain.add(&self.traffic.cache_written, self.prices.cache_j, &mut cost.cache_j);
        let slice = self.beside.as_ref().and_then(|beside| divided.get(beside.env?)).unwrap_or(env);
        for i in 0..L {
            let (sliced, whole) = (self.timing.worked.of(slice.hits[i]), self.timing.worked.of(env.hits[i]));
            cost.weights_j[i] += self.reads() * self.traffic.expert_bytes * self.prices.weight_j * sliced;
            cost.compute_j[i] += self.padding_j * whole;
        }
        let turns = self.beside.as_ref().is_some_and(|beside| beside.order == Order::Turns);
        match Self::overlapped([self]) {
            // What a kernel that takes turns hides is known of its block only.
            Some(overlapped) if turns => {
                let seconds = overlapped.seconds(env, divided, How::default());
                cost.kernel_s = seconds.kernel_s;
            }
            Some(overlapped) => {
                let seconds = overlapped.seconds(env, divided, How::default());
                (cost.kernel_s, cost.exposed_s, cost.hidden_s) =
                    (seconds.kernel_s, seconds.exposed_s, seconds.hidden_s);
            }
            None => cost.kernel_s = self.timed(&self.timing).seconds(env, How::default()).kernel_s,
        }
        for collective in self.exposed() {
            let seconds = collective.seconds(env, 1.0, 1.0);
            for i in 0..L {
                cost.exposed_s[i] += seconds[i];
            }
        }
        for collective in &self.collectives {
            env.plain.add(&collective.joules(), 1.0, &mut cost.link_j);
        }
        if let Some(Beside { ring: Some(ring), stages, .. }) = &self.beside {
            env.plain.add(&ring.joules(), *stages, &mut cost.link_j);
        }
        cost
    }
}
