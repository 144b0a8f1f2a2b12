//! A model as blocks of kernels of equations, with everything that follows from the text alone.

mod build;
mod check;
pub mod flow;
mod names;
mod shard;

use std::collections::{BTreeMap, BTreeSet};

use crate::einsum::count::Work;
use crate::einsum::{Equation, Function, Rank};
use crate::input::plan::{MaskSpec, OverlapSpec, RankSpec};
use crate::phase::Phase;
use crate::routing::{Groups, reach};

/// A mesh axis: a form of parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    /// Tensor parallelism of attention and dense layers.
    Tp,
    /// Attention data parallelism inside one engine.
    Dp,
    /// Expert parallelism.
    Ep,
    /// Tensor parallelism inside experts.
    MoeTp,
    /// Pipeline parallelism.
    Pp,
}

impl Axis {
    /// All axes a spec may name.
    pub const ALL: [(&'static str, Self); 5] =
        [("tp", Self::Tp), ("dp", Self::Dp), ("ep", Self::Ep), ("moe_tp", Self::MoeTp), ("pp", Self::Pp)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, axis)| *axis == self).map_or("", |(name, _)| name)
    }
}

/// Class of a kernel; it chooses the time coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Fused attention.
    Attention,
    /// Grouped (expert) matrix products.
    GroupedGemm,
    /// Dense matrix products.
    Gemm,
    /// Bound by memory.
    Elementwise,
}

impl Class {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::GroupedGemm => "grouped_gemm",
            Self::Gemm => "gemm",
            Self::Elementwise => "elementwise",
        }
    }
}

/// One equation in its kernel.
#[derive(Clone, Debug)]
pub struct Line {
    /// The equation.
    pub equation: Equation,
    /// Whether tokens meet only some values of the routed rank.
    pub routed: bool,
    /// A matrix product or vector work.
    pub work: Work,
    /// The weight it multiplies by, if it multiplies by one.
    pub weight: Option<String>,
    /// All ranks of its iteration space, in order of appearance.
    pub ranks: Vec<Rank>,
    /// The same with those a function drops.
    pub all_ranks: Vec<Rank>,
    /// Whether some rank is summed over.
    pub sums: bool,
}

impl Line {
    /// Whether it is a product with the experts' weights.
    pub fn grouped(&self) -> bool {
        self.routed && self.weight.is_some() && matches!(self.work, Work::Matrix(_))
    }

    /// FLOPs of its product: a number for each element over the ranks (Eq. 2.1).
    pub fn product_work(&self) -> Option<(f64, &[Rank])> {
        match (self.equation.factors.as_slice(), self.sums) {
            ([_, _], true) => Some((2.0, &self.ranks)),
            ([_, _], false) => Some((1.0, &self.equation.result.ranks)),
            ([only], true) if only.function.is_none() => Some((1.0, &self.ranks)),
            _ => None,
        }
    }

    /// FLOPs of its functions: a number for each element over the ranks of the largest argument (Eq. 2.2).
    pub fn function_work(&self) -> impl Iterator<Item = (f64, &[Rank])> {
        self.equation.factors.iter().filter_map(|factor| {
            let function = factor.function.filter(|f| !Function::selects(*f))?;
            Some((function.flops_per_element(), factor.largest()?.ranks.as_slice()))
        })
    }
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name.
    pub name: String,
    /// Phase it is limited to.
    pub phase: Option<Phase>,
    /// Equations.
    pub lines: Vec<Line>,
    /// Class.
    pub class: Class,
    /// Mask of an attention kernel.
    pub mask: Option<MaskSpec>,
    /// Overlap with the collective behind it.
    pub overlap: Option<OverlapSpec>,
}

impl Kernel {
    /// Whether it runs in that phase.
    pub fn runs_in(&self, phase: Phase) -> bool {
        self.phase.is_none_or(|only| only == phase)
    }
}

/// Kernels, repeated.
#[derive(Clone, Debug)]
pub struct Block {
    /// Name.
    pub name: String,
    /// Times it runs in one pass.
    pub repeat: u64,
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// Rank to axis, in order.
    pub shard: Vec<(Rank, Axis)>,
}

/// A whole model.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Name.
    pub name: String,
    /// Extents.
    pub ranks: BTreeMap<Rank, RankSpec>,
    /// The routed rank: its letter, extent and active count.
    pub routed: Option<Routed>,
    /// Blocks.
    pub blocks: Vec<Block>,
    /// Weight names.
    pub weights: BTreeSet<String>,
    /// Cached tensors.
    pub cache: BTreeSet<String>,
    /// Formats by kind or tensor.
    pub dtypes: BTreeMap<String, String>,
    /// Weights shared between blocks.
    pub tied: BTreeSet<String>,
    /// Whether layers are dealt to pipeline stages.
    pub pipelined: bool,
    /// Whether sequences are dealt to data-parallel ranks.
    pub data_parallel: bool,
    /// Reads, writes and exchanges of its kernels, by phase and by whether tp and the experts' axes span the same GPUs.
    flows: [Vec<flow::BlockFlow>; 4],
}

/// The routed rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Letter.
    pub rank: Rank,
    /// Experts.
    pub extent: f64,
    /// Experts that a token takes.
    pub active: f64,
    /// Groups of experts that a token is limited to; none: all experts.
    pub groups: Option<Groups>,
}

impl Routed {
    /// Expected number of `n` equal parts of the experts (GPUs or nodes) that hold any of a token's (Eq. 7.2, 7.3).
    pub fn reach(&self, n: f64) -> f64 {
        reach(n, self.extent, self.active, self.groups)
    }
}

impl Graph {
    /// Reads, writes and exchanges of its kernels in a phase; `same_gpus` says that tp and the experts' axes span the same GPUs.
    pub fn flow(&self, phase: Phase, same_gpus: bool) -> &[flow::BlockFlow] {
        &self.flows[2 * usize::from(phase == Phase::Decode) + usize::from(same_gpus)]
    }

    /// Whether a kernel is attention over the cache.
    pub fn attends(&self, kernel: &Kernel) -> bool {
        let cached = |line: &Line| line.equation.reads().any(|t| t.has('t') && self.cache.contains(&t.name));
        kernel.class == Class::Attention && kernel.lines.iter().any(cached)
    }

    /// Whether some block reads the cache, and each that does has attention over it.
    pub fn reads_cache(&self) -> bool {
        let cached = |line: &Line| line.equation.reads().any(|t| t.has('t') && self.cache.contains(&t.name));
        let reads = |block: &&Block| block.kernels.iter().any(|kernel| kernel.lines.iter().any(cached));
        let mut readers = self.blocks.iter().filter(reads).peekable();
        readers.peek().is_some() && readers.all(|block| block.kernels.iter().any(|kernel| self.attends(kernel)))
    }

    /// Number of weights, each counted once a repetition, tied ones once.
    pub fn parameters(&self) -> f64 {
        let mut total = 0.0;
        let mut tied_seen = BTreeSet::new();
        for block in &self.blocks {
            for (name, (ranks, _)) in self.block_weights(block) {
                let elements: f64 =
                    ranks.iter().filter_map(|rank| self.ranks.get(rank)).map(|r| r.extent as f64).product();
                if self.tied.contains(&name) {
                    if tied_seen.insert(name) {
                        total += elements;
                    }
                } else {
                    total += elements * block.repeat as f64;
                }
            }
        }
        total
    }

    /// Weights of a block by name, at their first use: index ranks, and whether the line is routed.
    pub fn block_weights(&self, block: &Block) -> BTreeMap<String, (Vec<Rank>, bool)> {
        let mut weights = BTreeMap::new();
        for line in block.kernels.iter().flat_map(|kernel| &kernel.lines) {
            for tensor in line.equation.reads().filter(|tensor| self.weights.contains(&tensor.name)) {
                weights.entry(tensor.name.clone()).or_insert_with(|| (tensor.ranks.clone(), line.routed));
            }
        }
        weights
    }

    /// Number of layers, which are dealt to pipeline stages.
    pub fn layers(&self) -> u64 {
        self.blocks.iter().filter(|block| block.repeat > 1).map(|block| block.repeat).sum()
    }
}
