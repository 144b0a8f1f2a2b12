//! One kernel with the collectives behind it: seconds and joules of a block of points.

use super::attention::{Attention, reach, visible};
use super::collective::Collective;
use super::elementwise::Vector;
use super::gemm::{Product, Tiling};
use super::lanes::{Basis, LANES, Lane};
use super::moe::Hits;
use super::overlap::staged;
use crate::einsum::shape::Poly;
use crate::hardware::profile::TimeSet;
use crate::plan::MaskSpec;

/// The step's variables for one block of points, and everything derived from them alone.
#[derive(Clone, Debug)]
pub struct Env<const L: usize = LANES> {
    /// Unmasked monomials.
    pub plain: Basis<L>,
    /// By mask: monomials with visible pairs, and with the reach into the cache.
    pub masks: Vec<(Basis<L>, Basis<L>)>,
    /// Local experts hit.
    pub hits: Lane<L>,
    /// Rows of each.
    pub rows: Lane<L>,
}

impl<const L: usize> Default for Env<L> {
    fn default() -> Self {
        Self { plain: Basis::NONE, masks: Vec::new(), hits: [0.0; L], rows: [0.0; L] }
    }
}

impl<const L: usize> Env<L> {
    /// Takes the values of sequences, new tokens and visible tokens of one data-parallel rank.
    #[inline(always)]
    pub fn fill(&mut self, b: &Lane<L>, s: &Lane<L>, t: &Lane<L>, masks: &[MaskSpec], experts: Option<&Experts>) {
        let mut st = [0.0; L];
        for i in 0..L {
            st[i] = s[i] * t[i];
        }
        self.plain.fill(b, s, t, &st);
        self.masks.resize(masks.len(), (Basis::NONE, Basis::NONE));
        for (mask, (pairs_basis, reach_basis)) in masks.iter().zip(&mut self.masks) {
            let (mut pairs, mut reached, mut unused) = ([0.0; L], [0.0; L], [0.0; L]);
            for i in 0..L {
                pairs[i] = s[i] * visible(Some(*mask), s[i], t[i]);
                reached[i] = reach(Some(*mask), s[i], t[i]);
                unused[i] = s[i] * reached[i];
            }
            pairs_basis.fill(b, s, t, &pairs);
            reach_basis.fill(b, s, &reached, &unused);
        }
        if let Some(experts) = experts {
            let mut tokens = [0.0; L];
            for i in 0..L {
                tokens[i] = experts.pool * (b[i] * s[i]);
            }
            self.hits = experts.hits.at(&tokens);
            for i in 0..L {
                self.rows[i] = tokens[i] * experts.active_per_gpu / self.hits[i];
            }
        }
    }
}

/// Routing constants of one mapping.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// Data-parallel ranks whose tokens meet.
    pub pool: f64,
    /// active/ep.
    pub active_per_gpu: f64,
    /// Experts hit.
    pub hits: Hits,
}

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
    /// Seconds added for each expert hit.
    pub expert_s: f64,
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

/// A kernel that hands its result over in stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Staging {
    /// Stages.
    pub stages: f64,
    /// Its time on the SMs left.
    pub timing: Timing,
    /// Share of the link bandwidth its SMs reach.
    pub share: f64,
    /// Which divided environment it uses.
    pub env: usize,
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
    /// Joules of FLOPs and on-chip bytes.
    pub compute_j: Poly,
    /// Joules of FLOPs on padding, for each expert hit.
    pub padding_j: f64,
    /// Prices.
    pub prices: Prices,
    /// Collectives behind it.
    pub collectives: Vec<Collective>,
    /// Overlap with the first of them.
    pub staging: Option<Staging>,
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
    };
}

/// `(a^p + b^p)^(1/p)` for p a power of two, exact in every operation.
#[inline(always)]
pub fn smooth_maximum(a: f64, b: f64, doublings: u32) -> f64 {
    let [maximum] = smooth_maxima(&[a], &[b], doublings);
    maximum
}

/// [`smooth_maximum`] of all lanes.
#[inline(always)]
fn smooth_maxima<const L: usize>(a: &Lane<L>, b: &Lane<L>, doublings: u32) -> Lane<L> {
    let (mut large, mut ratio) = ([0.0; L], [0.0; L]);
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
    large
}

impl Timing {
    /// Seconds for given bytes; `tables` lets products be looked up by rows.
    #[inline(always)]
    pub fn seconds<const L: usize>(&self, pairs: &Basis<L>, env: &Env<L>, bytes: &Lane<L>, tables: bool) -> Lane<L> {
        let mut compute = [0.0; L];
        for product in &self.products {
            self.tiling.add(product, pairs, (&env.hits, &env.rows), tables, &mut compute);
        }
        if let Some(attention) = &self.attention {
            attention.add(pairs, self.tiling.sms, &mut compute);
        }
        self.vector.add(pairs, &mut compute);
        let doublings = self.set.sharpness.ilog2();
        let mut memory = [0.0; L];
        for i in 0..L {
            memory[i] = bytes[i] * self.seconds_per_byte;
        }
        if self.set.root_s_per_sqrt_byte > 0.0 {
            for i in 0..L {
                memory[i] += self.set.root_s_per_sqrt_byte * bytes[i].sqrt();
            }
        }
        let mut out = smooth_maxima(&compute, &memory, doublings);
        for i in 0..L {
            out[i] += self.set.t0_s;
        }
        pairs.add(&self.added, 1.0, &mut out);
        if self.expert_s > 0.0 {
            for i in 0..L {
                out[i] += self.expert_s * env.hits[i];
            }
        }
        out
    }
}

impl<const L: usize> Env<L> {
    /// Monomials with visible pairs, and with the reach into the cache, under a mask.
    #[inline(always)]
    pub fn bases(&self, mask: Option<usize>) -> (&Basis<L>, &Basis<L>) {
        match mask.and_then(|m| self.masks.get(m)) {
            Some((pairs, reach)) => (pairs, reach),
            None => (&self.plain, &self.plain),
        }
    }
}

impl KernelCost {
    /// Whether its time depends on a variable, given as a bit of the monomials.
    pub fn sees(&self, bit: u8) -> bool {
        let (timing, traffic) = (&self.timing, &self.traffic);
        let products = timing.products.iter().flat_map(|p| [&p.batch, &p.rows, &p.columns, &p.depth]);
        let attention = timing.attention.iter().flat_map(|a| [&a.seconds, &a.heads, &a.sequences]);
        let bytes = [&traffic.weights, &traffic.cache_read, &traffic.cache_written, &traffic.activations];
        let mut all = products.chain(attention).chain(bytes).chain([&timing.vector.flops, &timing.added]);
        self.mask.is_some() || all.any(|poly| poly.sees(bit))
    }

    fn bytes<const L: usize>(&self, env: &Env<L>) -> [Lane<L>; 3] {
        let (pairs, reach) = env.bases(self.mask);
        let mut weights = pairs.value(&self.traffic.weights);
        if self.traffic.expert_bytes > 0.0 {
            for i in 0..L {
                weights[i] += env.hits[i] * self.traffic.expert_bytes;
            }
        }
        let mut cache = reach.value(&self.traffic.cache_read);
        env.plain.add(&self.traffic.cache_written, 1.0, &mut cache);
        [weights, cache, pairs.value(&self.traffic.activations)]
    }

    fn seconds<const L: usize>(timing: &Timing, pairs: &Basis<L>, env: &Env<L>, bytes: &[Lane<L>; 3]) -> Lane<L> {
        let mut total = [0.0; L];
        for i in 0..L {
            total[i] = bytes[0][i] + bytes[1][i] + bytes[2][i];
        }
        timing.seconds(pairs, env, &total, false)
    }

    /// Evaluates the kernel; `divided` are the environments of staged kernels.
    pub fn cost<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>]) -> Cost<L> {
        let mut cost = Cost::NONE;
        let (pairs, _) = env.bases(self.mask);
        let bytes = self.bytes(env);
        for i in 0..L {
            cost.weights_j[i] = bytes[0][i] * self.prices.weight_j;
            cost.cache_j[i] = bytes[1][i] * self.prices.cache_j;
            cost.activations_j[i] = bytes[2][i] * self.prices.activation_j;
        }
        pairs.add(&self.compute_j, 1.0, &mut cost.compute_j);
        if self.padding_j > 0.0 {
            for i in 0..L {
                cost.compute_j[i] += env.hits[i] * self.padding_j;
            }
        }
        let mut exposed = self.collectives.as_slice();
        match (&self.staging, self.collectives.split_first()) {
            (Some(staging), Some((first, rest))) => {
                if let Some(slice) = divided.get(staging.env) {
                    let compute = Self::seconds(&staging.timing, slice.bases(self.mask).0, slice, &self.bytes(slice));
                    let collective = first.seconds(&env.plain, staging.stages, staging.share);
                    (cost.kernel_s, cost.exposed_s) = staged(staging.stages, &compute, &collective);
                    exposed = rest;
                }
            }
            _ => cost.kernel_s = Self::seconds(&self.timing, pairs, env, &bytes),
        }
        for collective in exposed {
            let seconds = collective.seconds(&env.plain, 1.0, 1.0);
            for i in 0..L {
                cost.exposed_s[i] += seconds[i];
            }
        }
        for collective in &self.collectives {
            env.plain.add(&collective.joules(), 1.0, &mut cost.link_j);
        }
        cost
    }
}
