//! From a kernel of the graph to its costs: time, traffic, joules, and the collectives that run at the same time.

use std::collections::BTreeSet;

use crate::cost::collective::Collective;
use crate::cost::kernel::{Concurrent, KernelCost, Prices, Traffic};
use crate::cost::overlap::Order;
use crate::graph::flow::{KernelFlow, Kind, Move};
use crate::graph::{Block, Kernel};
use crate::input::plan::MaskSpec;
use crate::lowering::context::Lowering;
use crate::lowering::features::Features;
use crate::lowering::timing::Measure;
use crate::numeric::shape::Poly;
use crate::phase::Phase;

/// Times a tensor between equations of one kernel passes through shared memory: it is written and read (Eq. 4.2).
const ON_CHIP_PASSES: f64 = 2.0;

/// What surrounds a kernel in its block.
pub(super) struct Surroundings<'a> {
    /// Collectives that follow it.
    pub collectives: Vec<Collective>,
    /// Tensors that the all-reduce before it hands over in registers, if norms are fused into all-reduces.
    pub reduced_inputs: &'a BTreeSet<&'a str>,
    /// Whether tokens of its block travel to experts and back, so that micro-batches can take turns.
    pub dispatches: bool,
    /// Keys and values that context-parallel ranks send around while it runs.
    pub ring: Option<Collective>,
}

/// What the kernels of a phase refer to by position, and the features they turned out to have.
#[derive(Default)]
pub(super) struct PhaseTables {
    /// Different masks.
    pub masks: Vec<MaskSpec>,
    /// Different numbers of slices of overlapped kernels.
    pub divisions: Vec<f64>,
    /// Features.
    pub features: Features,
}

impl Lowering<'_> {
    /// Costs of a kernel.
    pub(super) fn kernel(
        &self,
        phase: Phase,
        block: &Block,
        flow: &KernelFlow,
        surroundings: Surroundings,
        tables: &mut PhaseTables,
    ) -> KernelCost {
        let kernel = &block.kernels[flow.kernel];
        let mask = kernel.mask.map(|mask| index_of(&mut tables.masks, mask));
        let sms = f64::from(self.profile.compute.sms);
        let Measure { mut timing, joules, mut flops, padding_j } = self.timing(phase, block, kernel, sms);
        let in_registers = surroundings.reduced_inputs;
        let reads_reduced = flow.reads.iter().any(|moved| in_registers.contains(moved.name.as_str()));
        let fused = self.running.fused_norm && Self::light(kernel) && reads_reduced;
        let (mut traffic, on_chip) = self.traffic(block, flow, if fused { Some(in_registers) } else { None });
        let mut compute_j = joules;
        compute_j.add(&on_chip.scaled(self.profile.energy.on_chip_j_per_byte));
        if fused {
            // A norm inside the all-reduce is no launch of its own.
            timing.set.t0_s = 0.0;
            tables.features.fused = true;
        }
        if self.shares_tokens(block, kernel) {
            let share = 1.0 / f64::from(self.mesh.tp);
            traffic = traffic.scaled(share);
            timing.vector.flops = timing.vector.flops.scaled(share);
            compute_j = compute_j.scaled(share);
            flops.count = flops.count.scaled(share);
        }
        let mut concurrent = self.overlapped(phase, block, kernel, &surroundings, tables);
        if let Some(concurrent) = &mut concurrent {
            concurrent.timing.set.t0_s = if fused { 0.0 } else { concurrent.timing.set.t0_s };
            concurrent.timing.vector.flops = timing.vector.flops.clone();
        }
        let energy = &self.profile.energy;
        let prices = Prices {
            weight_j: energy.hbm_weight_j_per_byte,
            cache_j: energy.hbm_kv_j_per_byte,
            activation_j: energy.hbm_activation_j_per_byte,
        };
        let collectives = surroundings.collectives;
        KernelCost { timing, traffic, mask, flops, compute_j, padding_j, prices, collectives, concurrent }
    }

    /// How a kernel runs at the same time as collectives; none if it runs by itself.
    fn overlapped(
        &self,
        phase: Phase,
        block: &Block,
        kernel: &Kernel,
        surroundings: &Surroundings,
        tables: &mut PhaseTables,
    ) -> Option<Concurrent> {
        let (link, sms) = (&self.profile.link, f64::from(self.profile.compute.sms));
        let contention = link.contention;
        if let Some(ring) = &surroundings.ring {
            // The profile's curves of send_recv are of transfers without SMs: the kernel keeps all of them.
            let timing = self.timing(phase, block, kernel, sms).timing;
            let (order, ring, stages) = (Order::Ring, Some(ring.clone()), f64::from(self.mesh.cp - 1));
            return Some(Concurrent {
                order,
                timing,
                stages,
                slowdown: 1.0,
                power_share: 0.0,
                env: None,
                ring,
                contention,
            });
        }
        let (stages, communication_sms) = self.overlap_stages(phase, kernel)?;
        let turns = surroundings.dispatches && self.running.overlaps();
        if surroundings.collectives.is_empty() && !turns {
            return None;
        }
        tables.features.turns |= turns;
        tables.features.overlapped = true;
        Some(Concurrent {
            order: if turns { Order::Turns } else { Order::Stages },
            timing: self.timing(phase, block, kernel, sms - communication_sms).timing,
            stages,
            slowdown: link.slowdown(communication_sms),
            power_share: link.power_share(communication_sms),
            env: Some(index_of(&mut tables.divisions, stages)),
            ring: None,
            contention,
        })
    }

    /// Stages in which a kernel overlaps with collectives, and SMs these take: the point's if it sets any, else the model's.
    fn overlap_stages(&self, phase: Phase, kernel: &Kernel) -> Option<(f64, f64)> {
        let (running, sms) = (&self.running, self.profile.compute.sms);
        match running.overlap_stages {
            0 => {
                let of_model = kernel.overlap.filter(|o| o.phases().includes(phase) && o.sms < sms)?;
                Some((f64::from(of_model.stages), f64::from(of_model.sms)))
            }
            1 => None,
            stages => {
                let applies = running.overlap_where.includes(phase) && running.agrees(sms);
                applies.then(|| (f64::from(stages), f64::from(running.overlap_sms)))
            }
        }
    }

    /// Bytes that a kernel moves to and from memory, without tensors that are `in_registers` when it starts; and bytes
    /// that never leave the chip.
    fn traffic(&self, block: &Block, flow: &KernelFlow, in_registers: Option<&BTreeSet<&str>>) -> (Traffic, Poly) {
        let mut traffic = Traffic::default();
        let local =
            |moved: &Move| self.mesh.local(self.graph, block, &moved.ranks, moved.routed).scaled(self.bytes_of(moved));
        let from_memory = |moved: &&Move| in_registers.is_none_or(|names| !names.contains(moved.name.as_str()));
        for moved in flow.reads.iter().filter(from_memory) {
            match moved.kind {
                Kind::Weight => traffic.weights.add(&local(moved)),
                // How many experts a step reads depends on its tokens: bytes of one here, times those hit later.
                Kind::ExpertWeight => {
                    traffic.expert_bytes +=
                        self.mesh.expert_slice(self.graph, block, &moved.ranks) * self.bytes_of(moved);
                }
                Kind::Cache => traffic.cache_read.add(&local(moved)),
                Kind::Activation => traffic.activations.add(&local(moved)),
            }
        }
        for moved in &flow.writes {
            match moved.kind {
                Kind::Cache => traffic.cache_written.add(&local(moved)),
                _ => traffic.activations.add(&local(moved)),
            }
        }
        let mut on_chip = Poly::default();
        for moved in &flow.inside {
            on_chip.add(&local(moved).scaled(ON_CHIP_PASSES));
        }
        (traffic, on_chip)
    }
}

/// Position of an item in a list, to which it is added if it is new.
fn index_of<X: PartialEq>(list: &mut Vec<X>, item: X) -> usize {
    match list.iter().position(|have| *have == item) {
        Some(index) => index,
        None => {
            list.push(item);
            list.len() - 1
        }
    }
}
