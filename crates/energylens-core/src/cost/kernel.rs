//! One kernel with the collectives behind it: seconds (Eq. 5.1) and joules (Eq. 8.3) of a block of points.
//!
//! All quantities are those of one GPU in one pass. A [`Poly`] is a polynomial in the sequences, new and visible tokens of
//! the pass, so that one kernel serves every point of a mapping.

use super::collective::Collective;
pub use super::env::{Env, Experts};
use super::overlap::{Order, Overlapped};
pub use super::timing::{KernelSeconds, TimedKernel, Timing, TimingOptions, WorkedExperts, smooth_maximum};
use crate::hardware::link::Contention;
use crate::numeric::lanes::{LANES, Lane};
use crate::numeric::shape::Poly;

/// HBM bytes that a kernel moves (section 4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Weights, but for those of experts.
    pub weights: Poly,
    /// Weights of one expert, read for each expert worked on (Eq. 6.10).
    pub expert_bytes: f64,
    /// Cache read: of the tokens within the mask's window (Eq. 4.1).
    pub cache_read: Poly,
    /// Cache written: of the new tokens.
    pub cache_written: Poly,
    /// Activations, read and written.
    pub activations: Poly,
}

impl Traffic {
    /// A share of it, as sequence parallelism leaves to each GPU.
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

/// How a kernel runs at the same time as collectives.
#[derive(Clone, Debug, PartialEq)]
pub struct Concurrent {
    /// How they take turns.
    pub order: Order,
    /// Its timing on the SMs that the collectives leave.
    pub timing: Timing,
    /// Stages or micro-batches (Ω); of a ring, its messages.
    pub stages: f64,
    /// Seconds of its collectives' bytes over those on the SMs they want (Eq. 7.11).
    pub slowdown: f64,
    /// Share of `communication_w` that its collectives draw on their SMs (Eq. 7.14).
    pub power_share: f64,
    /// Which environment has the rows of one stage; none: the undivided one.
    pub env: Option<usize>,
    /// Of a ring: the message that passes by.
    pub ring: Option<Collective>,
    /// How much both slow each other down.
    pub contention: Contention,
}

/// What a kernel computes: reported only, not used for timing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flops {
    /// FLOPs without padding (Eq. 2.1, 2.2).
    pub count: Poly,
    /// Peak FLOP/s of its arithmetic: that of its first product, of vector work if it has none.
    pub peak_per_s: f64,
}

/// Joules of an HBM byte (Eq. 8.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Of weights.
    pub weight_j: f64,
    /// Of the KV cache.
    pub cache_j: f64,
    /// Of activations.
    pub activation_j: f64,
}

/// One kernel of one mapping: everything that its seconds and joules follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelCost {
    /// What its seconds follow from.
    pub timing: Timing,
    /// HBM bytes.
    pub traffic: Traffic,
    /// Mask, as an index into the environment's.
    pub mask: Option<usize>,
    /// FLOP count; reported only, not used for timing.
    pub flops: Flops,
    /// Joules of FLOPs and on-chip bytes (Eq. 8.3).
    pub compute_j: Poly,
    /// Joules of the FLOPs on padding rows, for each expert worked on (Eq. 6.11).
    pub padding_j: f64,
    /// Joules of its HBM bytes.
    pub prices: Prices,
    /// Collectives that follow it, in order.
    pub collectives: Vec<Collective>,
    /// How it runs at the same time as collectives; none: they follow it.
    pub concurrent: Option<Concurrent>,
}

/// Seconds and joules of a kernel with its collectives, on one GPU in one pass.
#[derive(Clone, Debug)]
pub struct Cost<const L: usize = LANES> {
    /// Seconds of the kernel.
    pub kernel_s: Lane<L>,
    /// Seconds of collectives that no kernel hides.
    pub exposed_s: Lane<L>,
    /// Joules of FLOPs and on-chip bytes.
    pub compute_j: Lane<L>,
    /// Joules of weight bytes.
    pub weights_j: Lane<L>,
    /// Joules of cache bytes.
    pub cache_j: Lane<L>,
    /// Joules of activation bytes.
    pub activations_j: Lane<L>,
    /// Joules of links.
    pub link_j: Lane<L>,
    /// Seconds at `communication_w` besides the exposed ones (Eq. 7.14).
    pub hidden_s: Lane<L>,
}

impl<const L: usize> Cost<L> {
    /// No seconds and no joules.
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

impl KernelCost {
    /// The kernel as `timing` times it: by itself, or on fewer SMs.
    pub fn timed(&self, timing: &Timing) -> TimedKernel {
        TimedKernel::new(timing.clone(), self.bytes(), self.traffic.expert_bytes, self.mask)
    }

    /// Bytes over plain monomials, over visible pairs, and over the tokens read from the cache.
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

    /// How often its weights are read: once a stage.
    pub fn reads(&self) -> f64 {
        self.concurrent
            .as_ref()
            .filter(|concurrent| concurrent.order != Order::Ring)
            .map_or(1.0, |concurrent| concurrent.stages)
    }

    /// Kernels with the collectives that run at the same time; none if one of them runs alone.
    ///
    /// Kernels whose micro-batches take turns are overlapped together, all others each by itself.
    pub fn overlapped<'a>(kernels: impl IntoIterator<Item = &'a Self>) -> Option<Overlapped> {
        let mut overlapped: Option<Overlapped> = None;
        for kernel in kernels {
            let concurrent = kernel.concurrent.as_ref()?;
            let collectives: &[Collective] = match (concurrent.order, &concurrent.ring) {
                (Order::Ring, ring) => ring.as_slice(),
                (Order::Stages, _) => kernel.collectives.get(..1).unwrap_or(&[]),
                (Order::Turns, _) => &kernel.collectives,
            };
            let group = overlapped.get_or_insert_with(|| Overlapped {
                kernels: Vec::new(),
                collectives: Vec::new(),
                order: concurrent.order,
                stages: concurrent.stages,
                slowdown: concurrent.slowdown,
                power_share: concurrent.power_share,
                env: concurrent.env,
                contention: concurrent.contention,
            });
            group.kernels.push(kernel.timed(&concurrent.timing));
            group.collectives.extend_from_slice(collectives);
        }
        overlapped
    }

    /// Collectives after it that nothing hides.
    pub fn exposed(&self) -> &[Collective] {
        let hidden = match self.concurrent.as_ref().map(|concurrent| concurrent.order) {
            None | Some(Order::Ring) => 0,
            Some(Order::Stages) => 1,
            Some(Order::Turns) => self.collectives.len(),
        };
        self.collectives.get(hidden..).unwrap_or(&[])
    }

    /// Seconds and joules of every lane; `divided` are the environments of stages.
    ///
    /// The sums over a phase are those of [`super::program::Program`], which is what points are evaluated with; this is one
    /// kernel by itself, to explain it.
    pub fn cost<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>]) -> Cost<L> {
        let (pairs, reach) = env.bases(self.mask);
        let mut cost = Cost::NONE;
        pairs.add(&self.compute_j, 1.0, &mut cost.compute_j);
        pairs.add(&self.traffic.weights.in_parts(self.reads()), self.prices.weight_j, &mut cost.weights_j);
        pairs.add(&self.traffic.activations, self.prices.activation_j, &mut cost.activations_j);
        reach.add(&self.traffic.cache_read, self.prices.cache_j, &mut cost.cache_j);
        env.plain.add(&self.traffic.cache_written, self.prices.cache_j, &mut cost.cache_j);
        let slice = self.concurrent.as_ref().and_then(|concurrent| divided.get(concurrent.env?)).unwrap_or(env);
        for i in 0..L {
            let (sliced, whole) = (self.timing.worked.of(slice.hits[i]), self.timing.worked.of(env.hits[i]));
            cost.weights_j[i] += self.reads() * self.traffic.expert_bytes * self.prices.weight_j * sliced;
            cost.compute_j[i] += self.padding_j * whole;
        }
        let turns = self.concurrent.as_ref().is_some_and(|concurrent| concurrent.order == Order::Turns);
        match Self::overlapped([self]) {
            // What a kernel hides that takes turns is known of its block only.
            Some(overlapped) if turns => {
                let seconds = overlapped.seconds(env, divided, TimingOptions::default());
                cost.kernel_s = seconds.kernel_s;
            }
            Some(overlapped) => {
                let seconds = overlapped.seconds(env, divided, TimingOptions::default());
                (cost.kernel_s, cost.exposed_s, cost.hidden_s) =
                    (seconds.kernel_s, seconds.exposed_s, seconds.hidden_s);
            }
            None => cost.kernel_s = self.timed(&self.timing).seconds(env, TimingOptions::default()).kernel_s,
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
        if let Some(Concurrent { ring: Some(ring), stages, .. }) = &self.concurrent {
            env.plain.add(&ring.joules(), *stages, &mut cost.link_j);
        }
        cost
    }
}
