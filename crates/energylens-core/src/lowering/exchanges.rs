//! Collectives of one kernel: those the shard map implies, those of sequence and of context parallelism.

use std::collections::BTreeSet;

use crate::cost::collective::{Collective, Group};
use crate::einsum::{Function, Rank};
use crate::graph::flow::{BlockFlow, Exchange, KernelFlow, Kind, Move, Partial};
use crate::graph::{Axis, Block, Class, Kernel, Line};
use crate::hardware::collectives::Operation;
use crate::lowering::context::Lowering;
use crate::numeric::shape::Poly;
use crate::phase::Phase;

/// Collectives of a block.
pub struct Exchanged<'a> {
    /// By kernel.
    pub collectives: Vec<Vec<Collective>>,
    /// Tensors that an all-reduce hands directly to a kernel.
    pub reduced_before: Vec<BTreeSet<&'a str>>,
    /// Whether there is an all-reduce over tp alone.
    pub reduced: bool,
}

impl Lowering<'_> {
    /// Collectives of all kernels of a block.
    pub(super) fn exchanged<'a>(&self, phase: Phase, block: &Block, flow: &'a BlockFlow) -> Exchanged<'a> {
        let kernels = &flow.kernels;
        let mut collectives: Vec<Vec<Collective>> = kernels
            .iter()
            .map(|kernel| kernel.exchanges.iter().flat_map(|e| self.collectives(phase, block, e)).collect())
            .collect();
        let mut reduced_before: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); kernels.len()];
        for (at, after) in collectives.iter().enumerate().filter(|_| self.running.fused_norm) {
            let next = if at + 1 < kernels.len() { at + 1 } else { 0 };
            if after.iter().any(|c| c.operation == Operation::AllReduce) && (next > 0 || block.repeat > 1) {
                let names = kernels[at].exchanges.iter().filter_map(|exchange| match exchange {
                    Exchange::Reduce { tensor, .. } => Some(tensor.name.as_str()),
                    Exchange::Gather { .. } => None,
                });
                reduced_before[next].extend(names);
            }
        }
        let mut reduced = false;
        for at in 0..kernels.len() {
            for i in 0..collectives[at].len() {
                if !collectives[at][i].over_tp {
                    continue;
                }
                reduced = true;
                if self.running.sequence_parallel {
                    let message = collectives[at][i].message.clone();
                    let tp = self.tp_group();
                    let made = |operation| Collective::new(self.profile, operation, tp, message.clone());
                    let heavy = |k: &usize| block.kernels[kernels[*k].kernel].class != Class::Elementwise;
                    let before = (at + 1..kernels.len()).chain(0..kernels.len()).find(heavy).unwrap_or(at);
                    collectives[at].splice(i..=i, made(Operation::ReduceScatter));
                    collectives[before].extend(made(Operation::AllGather));
                }
            }
        }
        if phase == Phase::Decode && self.mesh.cp > 1 {
            let (cp, bytes) = (self.mesh.cp, self.activation_format().bytes);
            let group = Group { size: cp, span: self.mesh.tp * cp };
            for (kernel, after) in kernels.iter().zip(&mut collectives) {
                if self.graph.attends(&block.kernels[kernel.kernel]) {
                    for moved in kernel.writes.iter().filter(|moved| moved.kind == Kind::Activation) {
                        let message = self.mesh.local(self.graph, block, &moved.ranks, moved.routed).scaled(bytes);
                        after.extend(Collective::new(self.profile, Operation::AllReduce, group, message));
                    }
                }
            }
        }
        Exchanged { collectives, reduced_before, reduced }
    }

    /// The keys and values that pass by the first attention kernel of a block in prefill, a context-parallel rank's at a time.
    pub(super) fn ring(&self, phase: Phase, block: &Block, flow: &BlockFlow, kernel: usize) -> Option<Collective> {
        if phase != Phase::Prefill || self.mesh.cp == 1 {
            return None;
        }
        let attends = |kernel: &&KernelFlow| self.graph.attends(&block.kernels[kernel.kernel]);
        flow.kernels.iter().find(attends).filter(|first| first.kernel == kernel)?;
        let (mut message, mut counted) = (Poly::default(), BTreeSet::new());
        for moved in flow.kernels.iter().flat_map(|kernel| &kernel.reads).filter(|moved| moved.kind == Kind::Cache) {
            if counted.insert(moved.name.as_str()) {
                let ranks: Vec<Rank> = moved.ranks.iter().map(|rank| if *rank == 't' { 's' } else { *rank }).collect();
                let local = self.mesh.local(self.graph, block, &ranks, moved.routed);
                message.add(&local.scaled(self.format(&moved.name, "cache").bytes));
            }
        }
        let group = Group { size: 2, span: self.mesh.tp * self.mesh.cp };
        Collective::new(self.profile, Operation::SendRecv, group, message)
    }

    /// Whether a kernel does nothing but norms and sums.
    pub(super) fn light(kernel: &Kernel) -> bool {
        let mut functions = kernel.lines.iter().flat_map(|line| &line.equation.factors).map(|factor| factor.function);
        kernel.class == Class::Elementwise
            && functions.all(|function| matches!(function, None | Some(Function::Norm | Function::Add)))
            && kernel.lines.iter().any(|line| line.equation.factors.iter().any(|factor| factor.function.is_some()))
    }

    /// Whether a kernel works on a tp rank's share of the tokens: norms and sums, with sequence parallelism.
    pub(super) fn shares_tokens(&self, block: &Block, kernel: &Kernel) -> bool {
        let unsplit = |line: &Line| {
            let ways = self.mesh.ways(self.graph, block, &line.all_ranks, line.routed).unwrap_or_default();
            line.all_ranks.iter().all(|rank| ways.of(*rank) == 1)
        };
        self.running.sequence_parallel && Self::light(kernel) && kernel.lines.iter().all(unsplit)
    }

    fn tp_group(&self) -> Group {
        Group { size: self.mesh.tp, span: self.mesh.tp }
    }

    /// Collectives of one exchange (section 7 of the physics page): first the one after the kernel, last a dispatch before it.
    fn collectives(&self, phase: Phase, block: &Block, exchange: &Exchange) -> Vec<Collective> {
        let (mesh, pool, stage) = (self.mesh, self.mesh.pool_gpus(), self.mesh.stage_gpus());
        let all = Group { size: pool, span: if mesh.dp == 1 { pool } else { stage } };
        let tp = self.tp_group();
        let dp = Group { size: mesh.dp, span: stage };
        let bytes = self.activation_format().bytes;
        let local = |moved: &Move| self.mesh.local(self.graph, block, &moved.ranks, moved.routed).scaled(bytes);
        let make = |operation, group, message: Poly| Collective::new(self.profile, operation, group, message);
        let made = match exchange {
            Exchange::Gather { tensor, rank, axis } => {
                let message = local(tensor);
                let ways = self.mesh.ways(self.graph, block, &tensor.ranks, tensor.routed).unwrap_or_default();
                let split = f64::from(ways.of(*rank));
                let group = match axis {
                    Axis::MoeTp => Group { size: mesh.moe_tp(), span: all.span },
                    _ => tp,
                };
                if split > 1.0 { vec![make(Operation::AllGather, group, message.scaled(split))] } else { Vec::new() }
            }
            Exchange::Reduce { partial: Partial::Tp, tensor, summed: (over, all_ranks) } => {
                let ways = mesh.ways(self.graph, block, all_ranks, false).unwrap_or_default();
                let split = over.iter().any(|rank| ways.of(*rank) > 1);
                let sum = make(Operation::AllReduce, tp, local(tensor));
                if split { vec![sum.map(Collective::over_tp)] } else { Vec::new() }
            }
            Exchange::Reduce { tensor, .. } if mesh.dp == 1 => vec![make(Operation::AllReduce, all, local(tensor))],
            Exchange::Reduce { tensor, .. } if mesh.moe_tp() == 1 => {
                let elements = local(tensor).scaled(1.0 / (bytes * f64::from(mesh.tp)));
                let sent = |operation| {
                    let routed = self.graph.routed.as_ref()?;
                    Collective::routed(self.profile, (operation, phase), all, (&elements, bytes), routed)
                };
                vec![sent(Operation::Combine), make(Operation::AllGather, tp, local(tensor)), sent(Operation::Dispatch)]
            }
            Exchange::Reduce { tensor, .. } => {
                let message = local(tensor).scaled(f64::from(mesh.dp));
                vec![
                    make(Operation::ReduceScatter, all, message.clone()),
                    make(Operation::AllGather, tp, local(tensor)),
                    make(Operation::AllGather, dp, message),
                ]
            }
        };
        made.into_iter().flatten().collect()
    }
}
