//! From the checked form of a plan to a graph.

use std::collections::{BTreeMap, BTreeSet};

use super::flow::flow;
use super::names::{Names, Parsed, equation_path};
use super::{Axis, Block, Class, Graph, Kernel, Line, Routed, check, shard};
use crate::einsum::count::{self, Work};
use crate::einsum::{Equation, Function, Rank, TensorRef, parse};
use crate::error::Problems;
use crate::input::plan::{BlockSpec, KernelSpec, MaskSpec, ModelSpec, RankSpec};
use crate::phase::Phase;

impl Graph {
    /// Reads, checks and classifies a model.
    ///
    /// # Errors
    /// All problems found, with paths relative to the model.
    pub fn build(spec: &ModelSpec) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let ranks = check::ranks(spec, &mut problems);
        let parsed = parse_all(spec, &mut problems);
        problems.or(())?;

        let mut problems = Problems::default();
        let names = Names::of(&parsed, &mut problems);
        let router = router_tensors(&parsed, &ranks, &names);
        let routed = check::routed(&ranks, &mut problems);
        check::equations(spec, &parsed, &ranks, &names, &mut problems);
        check::names(spec, &names, &mut problems);
        check::tied(spec, &mut problems);
        check::cached(spec, &parsed, &mut problems);
        let shards = shard::shard(spec, &ranks, &mut problems);
        problems.or(())?;

        let mut problems = Problems::default();
        let mut blocks = Vec::new();
        for (i, (block, equations)) in spec.blocks.iter().zip(parsed).enumerate() {
            let mut kernels = Vec::new();
            for (k, (kernel, equations)) in block.kernels.iter().zip(equations).enumerate() {
                let made = lines(i, equations, routed, &router, &names);
                check::routed_rows(&made, &mut problems, i, k);
                kernels.push(kernel_of(spec, block, kernel, made));
            }
            let shard = merged(&shards.model, &shards.blocks[i]);
            blocks.push(Block { name: block.name.clone(), repeat: block.repeat, kernels, shard });
        }
        problems.or(())?;
        let mut graph = Self {
            name: spec.name.clone(),
            ranks,
            routed,
            blocks,
            weights: names.weights,
            cache: spec.cache.iter().cloned().collect(),
            dtypes: spec.dtypes.clone(),
            tied: spec.tied.iter().cloned().collect(),
            pipelined: shards.pipelined,
            data_parallel: shards.model.iter().any(|(_, axis)| *axis == Axis::Dp),
            flows: Default::default(),
        };
        let both = [Phase::Prefill, Phase::Decode].into_iter().flat_map(|phase| [(phase, false), (phase, true)]);
        let flows: Vec<_> = both.map(|(phase, same_gpus)| flow(&graph, phase, same_gpus)).collect();
        for (slot, flow) in graph.flows.iter_mut().zip(flows) {
            *slot = flow;
        }
        Ok(graph)
    }
}

fn parse_all(spec: &ModelSpec, problems: &mut Problems) -> Parsed {
    let mut all = Vec::new();
    for (i, block) in spec.blocks.iter().enumerate() {
        let mut kernels = Vec::new();
        for (k, kernel) in block.kernels.iter().enumerate() {
            let mut equations = Vec::new();
            for (l, text) in kernel.equations.iter().enumerate() {
                let parsed = parse::parse(text).map_err(Problems::from);
                equations.extend(problems.gather(&equation_path(i, k, l), parsed));
            }
            kernels.push(equations);
        }
        all.push(kernels);
    }
    all
}

/// Tensors, by block and name, that carry the routed rank and lead to a `topk`: there every expert counts.
fn router_tensors(parsed: &Parsed, ranks: &BTreeMap<Rank, RankSpec>, names: &Names) -> BTreeSet<(usize, String)> {
    let is_routed = |rank: &Rank| ranks.get(rank).is_some_and(|r| r.active.is_some());
    let carries = |tensor: &&TensorRef| tensor.ranks.iter().any(is_routed);
    let mut open: Vec<(usize, String)> = Vec::new();
    for (block, kernels) in parsed.iter().enumerate() {
        let factors = kernels.iter().flatten().flat_map(|equation| &equation.factors);
        let chosen = factors.filter(|f| f.function == Some(Function::Topk)).flat_map(|f| &f.args);
        open.extend(chosen.filter(carries).map(|tensor| (names.home(block, &tensor.name), tensor.name.clone())));
    }
    let mut router = BTreeSet::new();
    while let Some((block, name)) = open.pop() {
        if !router.insert((block, name.clone())) {
            continue;
        }
        let makers = parsed[block].iter().flatten().filter(|equation| equation.result.name == name);
        let read = makers.flat_map(|equation| equation.reads()).filter(carries);
        open.extend(read.map(|tensor| (names.home(block, &tensor.name), tensor.name.clone())));
    }
    router
}

fn lines(
    block: usize,
    equations: Vec<Equation>,
    routed: Option<Routed>,
    router: &BTreeSet<(usize, String)>,
    names: &Names,
) -> Vec<Line> {
    equations
        .into_iter()
        .map(|equation| {
            let carries =
                routed.is_some_and(|r| equation.result.has(r.rank) || equation.reads().any(|t| t.has(r.rank)));
            let dense = router.contains(&(block, equation.result.name.clone()))
                || equation.factors.iter().any(|f| f.function == Some(Function::Topk));
            let is_routed = carries && !dense;
            let weight = (equation.factors.len() == 2)
                .then(|| {
                    let mut plain = equation.factors.iter().filter(|f| f.function.is_none());
                    plain.find_map(|f| f.args.iter().find(|arg| names.weights.contains(&arg.name)))
                })
                .flatten()
                .map(|tensor| tensor.name.clone());
            let left_out = if is_routed && weight.is_some() { routed.map(|r| r.rank) } else { None };
            let work = count::work(&equation, left_out);
            let ranks = count::all_ranks(&equation);
            let dropped = equation.reads().flat_map(|t| t.ranks.iter().copied()).filter(|rank| !ranks.contains(rank));
            let mut all_ranks: Vec<Rank> = ranks.iter().copied().chain(dropped).collect();
            all_ranks.dedup();
            let sums = !count::contracted(&equation).is_empty();
            Line { equation, routed: is_routed, work, weight, ranks, all_ranks, sums }
        })
        .collect()
}

fn kernel_of(spec: &ModelSpec, block: &BlockSpec, kernel: &KernelSpec, lines: Vec<Line>) -> Kernel {
    let scores = |line: &&Line| {
        let ranks = count::all_ranks(&line.equation);
        matches!(line.work, Work::Matrix(_)) && ranks.contains(&'s') && ranks.contains(&'t')
    };
    let class = if lines.iter().filter(scores).count() >= 2 {
        Class::Attention
    } else if lines.iter().any(Line::grouped) {
        Class::GroupedGemm
    } else if lines.iter().any(|line| matches!(line.work, Work::Matrix(_))) {
        Class::Gemm
    } else {
        Class::Elementwise
    };
    let mask_of = |name: &str| block.mask.get(name).or_else(|| spec.mask.get(name)).copied();
    let mask: Option<MaskSpec> = match class {
        Class::Attention => lines
            .iter()
            .flat_map(|line| line.equation.reads().chain(std::iter::once(&line.equation.result)))
            .find_map(|tensor| mask_of(&tensor.name)),
        _ => None,
    };
    let overlap = block.overlap.get(&kernel.name).or_else(|| spec.overlap.get(&kernel.name)).copied();
    Kernel { name: kernel.name.clone(), phase: kernel.phase, lines, class, mask, overlap }
}

fn merged(model: &[(Rank, Axis)], block: &[(Rank, Option<Axis>)]) -> Vec<(Rank, Axis)> {
    let mut all: Vec<(Rank, Option<Axis>)> = model.iter().map(|&(rank, axis)| (rank, Some(axis))).collect();
    for &(rank, axis) in block {
        match all.iter_mut().find(|(have, _)| *have == rank) {
            Some(entry) => entry.1 = axis,
            None => all.push((rank, axis)),
        }
    }
    all.into_iter().filter_map(|(rank, axis)| axis.map(|axis| (rank, axis))).collect()
}
