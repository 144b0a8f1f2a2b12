//! What moves in one phase: what each kernel reads and writes, and which collectives follow from the shard map.

use std::collections::{BTreeMap, BTreeSet};

use super::{Axis, Block, Graph, Kernel, Line};
use crate::einsum::count;
use crate::einsum::{Function, Rank, TensorRef};
use crate::phase::Phase;

/// Kind of a tensor moved, which decides its format and its price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A weight.
    Weight,
    /// A weight of experts: only those hit are read.
    ExpertWeight,
    /// The KV cache.
    Cache,
    /// Anything else.
    Activation,
}

/// One tensor moved by a kernel.
#[derive(Clone, Debug)]
pub struct Move {
    /// Name.
    pub name: String,
    /// Index that counts elements.
    pub ranks: Vec<Rank>,
    /// Whether the routed rank counts the active experts only.
    pub routed: bool,
    /// Price.
    pub kind: Kind,
}

/// Which sum a collective completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Partial {
    /// Over tp.
    Tp,
    /// Over moe_tp.
    MoeTp,
    /// Over ep, with or without moe_tp.
    Experts,
}

/// A collective the shard map implies.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// The partial sums of a tensor are added up.
    Reduce {
        /// What it is partial over.
        partial: Partial,
        /// The tensor.
        tensor: Move,
        /// Ranks summed over, and all ranks of the equation that did it: no sum if none of the first is really split.
        summed: (Vec<Rank>, Vec<Rank>),
    },
    /// A split rank is gathered for a function that needs all of it.
    Gather {
        /// The tensor.
        tensor: Move,
        /// The rank.
        rank: Rank,
        /// The axis it is split over.
        axis: Axis,
    },
}

/// A kernel in one phase.
#[derive(Clone, Debug)]
pub struct KernelFlow {
    /// Position in the block.
    pub kernel: usize,
    /// From memory.
    pub reads: Vec<Move>,
    /// To memory.
    pub writes: Vec<Move>,
    /// Made and used inside.
    pub inside: Vec<Move>,
    /// Collectives behind it.
    pub exchanges: Vec<Exchange>,
}

/// A block in one phase.
#[derive(Clone, Debug)]
pub struct BlockFlow {
    /// Kernels that run.
    pub kernels: Vec<KernelFlow>,
    /// Activations handed to the next pipeline stage.
    pub handed_on: Vec<Move>,
}

/// The whole model in one phase; `same_gpus` says that tp and the experts' axes span the same GPUs (no attention data parallelism).
pub fn flow(graph: &Graph, phase: Phase, same_gpus: bool) -> Vec<BlockFlow> {
    let inputs = block_inputs(graph, phase);
    graph
        .blocks
        .iter()
        .map(|block| {
            let read = read_in(block, phase);
            let taken: BTreeSet<&str> = inputs.union(&taken_from_memory(block, phase)).copied().collect();
            let mut kernels: Vec<KernelFlow> = block
                .kernels
                .iter()
                .enumerate()
                .filter(|(_, kernel)| kernel.runs_in(phase))
                .map(|(index, kernel)| kernel_flow(graph, index, kernel, &taken, &read))
                .collect();
            exchanges(graph, block, &mut kernels, same_gpus);
            BlockFlow { handed_on: handed_on(block, &kernels), kernels }
        })
        .collect()
}

/// Names that some kernel of the block reads before making them.
fn taken_from_memory(block: &Block, phase: Phase) -> BTreeSet<&str> {
    let mut taken = BTreeSet::new();
    for kernel in block.kernels.iter().filter(|kernel| kernel.runs_in(phase)) {
        taken.extend(read_before_made(kernel.lines.iter()));
    }
    taken
}

/// Names that some block reads before making them: what blocks hand to one another.
fn block_inputs(graph: &Graph, phase: Phase) -> BTreeSet<&str> {
    graph
        .blocks
        .iter()
        .flat_map(|block| {
            read_before_made(block.kernels.iter().filter(move |k| k.runs_in(phase)).flat_map(|k| &k.lines))
        })
        .collect()
}

fn read_before_made<'a>(lines: impl Iterator<Item = &'a Line>) -> BTreeSet<&'a str> {
    let (mut made, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        taken.extend(line.equation.reads().map(|t| t.name.as_str()).filter(|name| !made.contains(name)));
        made.insert(line.equation.result.name.as_str());
    }
    taken
}

fn read_in(block: &Block, phase: Phase) -> BTreeSet<&str> {
    let running = block.kernels.iter().filter(|kernel| kernel.runs_in(phase));
    running.flat_map(|k| &k.lines).flat_map(|l| l.equation.reads()).map(|t| t.name.as_str()).collect()
}

fn kernel_flow(
    graph: &Graph,
    index: usize,
    kernel: &Kernel,
    taken: &BTreeSet<&str>,
    read: &BTreeSet<&str>,
) -> KernelFlow {
    let mut flow =
        KernelFlow { kernel: index, reads: Vec::new(), writes: Vec::new(), inside: Vec::new(), exchanges: Vec::new() };
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for line in &kernel.lines {
        for factor in &line.equation.factors {
            for tensor in &factor.args {
                if made.contains(tensor.name.as_str()) || flow.reads.iter().any(|m| m.name == tensor.name) {
                    continue;
                }
                let selected = match factor.function {
                    Some(Function::Embed) => graph.weights.contains(&tensor.name),
                    Some(Function::Last) => true,
                    _ => false,
                };
                let ranks = if selected { &line.equation.result.ranks } else { &tensor.ranks };
                flow.reads.push(Move {
                    name: tensor.name.clone(),
                    ranks: ranks.clone(),
                    routed: line.routed,
                    kind: read_kind(graph, line, tensor),
                });
            }
        }
        let result = &line.equation.result;
        if made.insert(&result.name) {
            let cached = graph.cache.contains(&result.name);
            let kind = if cached { Kind::Cache } else { Kind::Activation };
            let moved = Move { name: result.name.clone(), ranks: result.ranks.clone(), routed: line.routed, kind };
            let name = result.name.as_str();
            if cached || taken.contains(name) || !read.contains(name) {
                flow.writes.push(moved);
            } else {
                flow.inside.push(moved);
            }
        }
    }
    flow
}

fn read_kind(graph: &Graph, line: &Line, tensor: &TensorRef) -> Kind {
    if graph.weights.contains(&tensor.name) {
        let expert = line.routed && graph.routed.is_some_and(|r| tensor.has(r.rank));
        if expert { Kind::ExpertWeight } else { Kind::Weight }
    } else if graph.cache.contains(&tensor.name) && tensor.has('t') {
        Kind::Cache
    } else {
        Kind::Activation
    }
}

/// Activations the block both takes and makes (hidden state, residual), else the first it takes.
fn handed_on(block: &Block, kernels: &[KernelFlow]) -> Vec<Move> {
    let mut made: BTreeSet<&str> = BTreeSet::new();
    let mut taken: Vec<&Move> = Vec::new();
    for flow in kernels {
        for moved in flow.reads.iter().filter(|m| m.kind == Kind::Activation) {
            if !made.contains(moved.name.as_str()) && !taken.iter().any(|m| m.name == moved.name) {
                taken.push(moved);
            }
        }
        made.extend(block.kernels[flow.kernel].lines.iter().map(|line| line.equation.result.name.as_str()));
    }
    let both: Vec<Move> = taken.iter().filter(|m| made.contains(m.name.as_str())).map(|m| (*m).clone()).collect();
    if both.is_empty() { taken.first().map(|m| (*m).clone()).into_iter().collect() } else { both }
}

struct Pending {
    partial: Partial,
    maker: usize,
    tensor: Move,
    summed: (Vec<Rank>, Vec<Rank>),
    carried_on: bool,
}

impl Pending {
    fn reduce(self) -> (usize, Exchange) {
        (self.maker, Exchange::Reduce { partial: self.partial, tensor: self.tensor, summed: self.summed })
    }
}

/// Follows partial sums through the block and places the collectives that add them up.
fn exchanges(graph: &Graph, block: &Block, kernels: &mut [KernelFlow], same_gpus: bool) {
    let axis = |rank: Rank| block.shard.iter().find(|(r, _)| *r == rank).map(|(_, a)| *a);
    let mut pending: BTreeMap<String, Pending> = BTreeMap::new();
    let mut makers: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    let mut gathered: BTreeSet<String> = BTreeSet::new();
    let mut placed: Vec<(usize, Exchange)> = Vec::new();
    for position in 0..kernels.len() {
        for line in &block.kernels[kernels[position].kernel].lines {
            let equation = &line.equation;
            let mut carried: Option<Partial> = None;
            let mut summed = summed_over(graph, line);
            for (name, stays) in fates(line, &pending, &axis, same_gpus) {
                if stays.is_some() {
                    if let Some(state) = pending.get_mut(name) {
                        state.carried_on = true;
                        summed.0.extend(&state.summed.0);
                        summed.1.extend(&state.summed.1);
                    }
                    carried = carried.max(stays);
                } else if let Some(state) = pending.remove(name) {
                    placed.push(state.reduce());
                }
            }
            for factor in equation.factors.iter().filter(|f| f.function.is_some_and(Function::reduces_last_rank)) {
                let Some(tensor) = factor.args.first() else { continue };
                let (maker, routed) = makers.get(&tensor.name).copied().unwrap_or((position, line.routed));
                let wanted = if routed { Axis::MoeTp } else { Axis::Tp };
                let rank = tensor.ranks.last().copied().filter(|rank| axis(*rank) == Some(wanted));
                if let Some(rank) = rank.filter(|_| gathered.insert(tensor.name.clone())) {
                    let kind = Kind::Activation;
                    let moved = Move { name: tensor.name.clone(), ranks: tensor.ranks.clone(), routed, kind };
                    placed.push((maker, Exchange::Gather { tensor: moved, rank, axis: wanted }));
                }
            }
            let partial = made_partial(graph, line, &axis).max(carried);
            let result = &equation.result;
            pending.remove(&result.name);
            gathered.remove(&result.name);
            makers.insert(result.name.clone(), (position, line.routed));
            if let Some(partial) = partial {
                let kind = Kind::Activation;
                let tensor = Move { name: result.name.clone(), ranks: result.ranks.clone(), routed: line.routed, kind };
                pending.insert(
                    result.name.clone(),
                    Pending { partial, maker: position, tensor, summed, carried_on: false },
                );
            }
        }
    }
    let mut rest: Vec<Pending> = pending.into_values().filter(|p| !p.carried_on).collect();
    rest.sort_by_key(|p| p.maker);
    placed.extend(rest.into_iter().map(Pending::reduce));
    for (position, exchange) in placed {
        kernels[position].exchanges.push(exchange);
    }
}

/// Ranks an equation contracts or looks rows up along, and all its ranks with them.
fn summed_over(graph: &Graph, line: &Line) -> (Vec<Rank>, Vec<Rank>) {
    let equation = &line.equation;
    let mut summed: Vec<Rank> = count::contracted(equation);
    for factor in equation.factors.iter().filter(|f| f.function == Some(Function::Embed)) {
        let rows = factor.args.iter().filter(|t| graph.weights.contains(&t.name)).flat_map(|t| t.ranks.iter().copied());
        summed.extend(rows.filter(|rank| !equation.result.has(*rank)));
    }
    let mut all = count::all_ranks(equation);
    all.extend(summed.iter().filter(|rank| !count::all_ranks(equation).contains(rank)));
    (summed, all)
}

/// What an equation leaves partial by contracting (or looking up) a split rank.
fn made_partial(graph: &Graph, line: &Line, axis: &dyn Fn(Rank) -> Option<Axis>) -> Option<Partial> {
    summed_over(graph, line)
        .0
        .into_iter()
        .filter_map(|rank| match (axis(rank), line.routed) {
            (Some(Axis::Tp), false) => Some(Partial::Tp),
            (Some(Axis::MoeTp), true) => Some(Partial::MoeTp),
            (Some(Axis::Ep), true) => Some(Partial::Experts),
            _ => None,
        })
        .max()
}

/// Partial tensors an equation reads, each with what its result stays partial over, or none if it must be added up first.
fn fates<'a>(
    line: &'a Line,
    pending: &BTreeMap<String, Pending>,
    axis: &dyn Fn(Rank) -> Option<Axis>,
    same_gpus: bool,
) -> Vec<(&'a str, Option<Partial>)> {
    let partial_factors =
        line.equation.factors.iter().filter(|f| f.args.iter().any(|arg| pending.contains_key(&arg.name))).count();
    let mut fates: Vec<(&str, Option<Partial>)> = Vec::new();
    for tensor in line.equation.reads().filter(|tensor| pending.contains_key(&tensor.name)) {
        // A product of two sums is not the sum of products.
        let alone = line.equation.factors.len() == 1 || partial_factors == 1;
        let stays = pending
            .get(&tensor.name)
            .filter(|_| alone)
            .and_then(|state| carry(line, tensor, state.partial, pending, axis, same_gpus));
        fates.push((&tensor.name, stays));
    }
    fates
}

/// What the result is partial over if a partial argument may stay so; none if it must be made whole first.
fn carry(
    line: &Line,
    tensor: &TensorRef,
    partial: Partial,
    pending: &BTreeMap<String, Pending>,
    axis: &dyn Fn(Rank) -> Option<Axis>,
    same_gpus: bool,
) -> Option<Partial> {
    let factors = &line.equation.factors;
    if let [factor] = factors.as_slice() {
        if factor.function != Some(Function::Add) {
            return None;
        }
        let all: Option<Vec<Partial>> =
            factor.args.iter().map(|arg| pending.get(&arg.name).map(|p| p.partial)).collect();
        let together = |partials: &Vec<Partial>| {
            same_gpus || partials.iter().all(|p| (*p == Partial::Tp) == (partial == Partial::Tp))
        };
        return all.filter(together).and_then(|partials| partials.into_iter().max());
    }
    let position = factors.iter().position(|f| f.function.is_none() && f.args.first() == Some(tensor))?;
    let other = factors.get(1 - position)?;
    let split_by_other = other.args.iter().flat_map(|arg| &arg.ranks).any(|rank| match (axis(*rank), partial) {
        (Some(Axis::Tp), Partial::Tp) => !line.routed,
        (Some(Axis::MoeTp), Partial::MoeTp) => line.routed,
        (Some(Axis::MoeTp | Axis::Ep), Partial::Experts) => line.routed,
        _ => false,
    });
    if split_by_other { None } else { Some(partial) }
}
