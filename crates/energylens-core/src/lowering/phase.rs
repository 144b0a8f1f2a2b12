//! From graph, profile and mesh to the constants of each kernel.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::cost::collective::{Collective, Group};
use crate::cost::kernel::{Concurrent, Experts, KernelCost, Prices, Traffic};
use crate::cost::overlap::Order;
use crate::cost::program::Program;
use crate::einsum::count::Work;
use crate::graph::flow::{BlockFlow, KernelFlow, Kind, Move};
use crate::graph::{Block, Class, Graph, Kernel, Line};
use crate::hardware::collectives::Operation;
use crate::hardware::dtype::{DTYPES, Dtype, dtype};
use crate::hardware::kernels::TimeSet;
use crate::hardware::profile::Profile;
use crate::hardware::uncertainty::Range;
use crate::input::plan::MaskSpec;
use crate::input::run_options::Running;
use crate::lowering::mapping::{Blocks, CacheShape, Formats, MappedKernel, MappedPhase, StageKind};
use crate::lowering::mesh::Mesh;
use crate::lowering::timing::Measure;
use crate::numeric::shape::Poly;
use crate::phase::Phase;

/// Inputs of the lowering.
pub struct Lowering<'a> {
    /// Model.
    pub graph: &'a Graph,
    /// GPU.
    pub profile: &'a Profile,
    /// Mesh.
    pub mesh: Mesh,
    /// Formats of the point.
    pub formats: Formats,
    /// How it runs.
    pub running: Running,
    /// Routed experts.
    pub experts: Option<Experts>,
}

/// What a phase was found to have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// An all-reduce over tp alone.
    pub reduced: bool,
    /// A norm inside an all-reduce.
    pub fused: bool,
    /// Collectives in stages, micro-batches taking turns, or a hand-over beside a pass.
    pub overlapped: bool,
    /// Micro-batches taking turns.
    pub turns: bool,
}

/// What surrounds a kernel.
struct Around<'a> {
    /// Its collectives.
    collectives: Vec<Collective>,
    /// Tensors an all-reduce hands to it.
    reduced: &'a BTreeSet<&'a str>,
    /// Whether micro-batches could take turns in its block.
    turns: bool,
    /// Keys and values passing by.
    ring: Option<Collective>,
}

/// What kernels of a phase share.
#[derive(Default)]
struct Shared {
    masks: Vec<MaskSpec>,
    divisions: Vec<f64>,
    found: Found,
}

impl Lowering<'_> {
    /// Format of a tensor: by name, else by kind, the point's choice before the spec's.
    pub(super) fn format(&self, name: &str, kind: &str) -> Dtype {
        let named = |key: &str| self.graph.dtypes.get(key).and_then(|d| dtype(d).ok());
        let chosen = match kind {
            "weights" => self.formats.weights,
            "cache" => self.formats.cache,
            _ => None,
        };
        named(name).or(chosen).or_else(|| named(kind)).unwrap_or(DTYPES[1])
    }

    fn bytes_of(&self, moved: &Move) -> f64 {
        let kind = match moved.kind {
            Kind::Weight | Kind::ExpertWeight => "weights",
            Kind::Cache => "cache",
            Kind::Activation => "activations",
        };
        self.format(&moved.name, kind).bytes
    }

    /// One phase of the model, its kernels, and what it was found to have.
    pub fn phase(&self, phase: Phase, kinds: &[StageKind]) -> (MappedPhase, Blocks, Found) {
        let flows = self.graph.flow(phase, self.mesh.dp == 1);
        let mut shared = Shared::default();
        let blocks: Blocks = (self.graph.blocks.iter().zip(flows).enumerate())
            .map(|(i, (block, flow))| self.block(phase, (i, block), flow, &mut shared))
            .collect();
        let first = self.graph.blocks.iter().position(|block| block.repeat > 1);
        let send = first.filter(|_| self.mesh.pp > 1).and_then(|i| {
            let mut message = Poly::default();
            for moved in &flows[i].handed_on {
                let local = self.mesh.local(self.graph, &self.graph.blocks[i], &moved.ranks, moved.routed);
                message.add(&local.scaled(self.format("", "activations").bytes));
            }
            let group = Group { size: 2, span: self.mesh.gpus() };
            Collective::new(self.profile, Operation::SendRecv, group, message)
        });
        let mut program = Program::new(phase == Phase::Decode, self.running.governed());
        for kind in kinds {
            program.next_stage();
            for (kernels, count) in blocks.iter().zip(&kind.counts).filter(|(_, count)| **count > 0.0) {
                program.add_block(kernels.iter().map(|kernel| &kernel.cost), *count);
            }
            send.iter().for_each(|send| program.add_link(send));
        }
        let sends_beside = self.running.overlaps() && self.running.overlap_where.includes(phase);
        let contention = self.profile.link.contention;
        let Shared { masks, divisions, mut found } = shared;
        found.overlapped |= sends_beside && send.is_some();
        let fixed = OnceLock::new();
        (MappedPhase { program, send, sends_beside, contention, masks, divisions, fixed }, blocks, found)
    }

    fn block(
        &self,
        phase: Phase,
        (i, block): (usize, &Block),
        flow: &BlockFlow,
        shared: &mut Shared,
    ) -> Vec<MappedKernel> {
        let exchanged = self.exchanged(phase, block, flow);
        shared.found.reduced |= exchanged.reduced;
        let turns = exchanged.collectives.iter().flatten().any(|c| c.operation == Operation::Dispatch);
        let kernels = flow.kernels.iter().zip(exchanged.collectives).zip(&exchanged.reduced_before);
        let mapped = kernels.map(|((own, collectives), reduced)| {
            let ring = self.ring(phase, block, flow, own.kernel);
            let around = Around { collectives, reduced, turns, ring };
            MappedKernel { place: (i, own.kernel), cost: self.kernel(phase, block, own, around, shared) }
        });
        mapped.collect()
    }

    fn kernel(
        &self,
        phase: Phase,
        block: &Block,
        flow: &KernelFlow,
        around: Around,
        shared: &mut Shared,
    ) -> KernelCost {
        let kernel = &block.kernels[flow.kernel];
        let mask = kernel.mask.map(|mask| index_of(&mut shared.masks, mask));
        let sms = f64::from(self.profile.compute.sms);
        let Measure { mut timing, joules, mut flops, padding_j } = self.timing(phase, block, kernel, sms);
        let reduced = around.reduced;
        let read = |moved: &Move| reduced.contains(moved.name.as_str());
        let fused = self.running.fused_norm && Self::light(kernel) && flow.reads.iter().any(read);
        let (mut traffic, on_chip) = self.traffic(block, flow, if fused { Some(reduced) } else { None });
        let mut compute_j = joules;
        compute_j.add(&on_chip.scaled(self.profile.energy.on_chip_j_per_byte));
        if fused {
            timing.set.t0_s = 0.0;
            shared.found.fused = true;
        }
        if self.shares_tokens(block, kernel) {
            let share = 1.0 / f64::from(self.mesh.tp);
            traffic = traffic.scaled(share);
            timing.vector.flops = timing.vector.flops.scaled(share);
            compute_j = compute_j.scaled(share);
            flops.count = flops.count.scaled(share);
        }
        let (turning, concurrent) = self.concurrent(phase, block, kernel, &around, shared);
        shared.found.turns |= turning;
        shared.found.overlapped |=
            turning || concurrent.as_ref().is_some_and(|concurrent| concurrent.order == Order::Stages);
        let energy = &self.profile.energy;
        let prices = Prices {
            weight_j: energy.hbm_weight_j_per_byte,
            cache_j: energy.hbm_kv_j_per_byte,
            activation_j: energy.hbm_activation_j_per_byte,
        };
        let concurrent = concurrent.map(|mut concurrent| {
            concurrent.timing.set.t0_s = if fused { 0.0 } else { concurrent.timing.set.t0_s };
            concurrent.timing.vector.flops = timing.vector.flops.clone();
            concurrent
        });
        KernelCost {
            timing,
            traffic,
            mask,
            flops,
            compute_j,
            padding_j,
            prices,
            collectives: around.collectives,
            concurrent,
        }
    }

    /// What a kernel runs beside, and whether as one that takes turns.
    fn concurrent(
        &self,
        phase: Phase,
        block: &Block,
        kernel: &Kernel,
        around: &Around,
        shared: &mut Shared,
    ) -> (bool, Option<Concurrent>) {
        let (link, sms) = (&self.profile.link, f64::from(self.profile.compute.sms));
        let running = &self.running;
        let contention = link.contention;
        if let Some(ring) = &around.ring {
            let timing = self.timing(phase, block, kernel, sms).timing;
            let (order, ring, stages) = (Order::Ring, Some(ring.clone()), f64::from(self.mesh.cp - 1));
            let concurrent =
                Concurrent { order, timing, stages, slowdown: 1.0, power_share: 0.0, env: None, ring, contention };
            return (false, Some(concurrent));
        }
        let (stages, taken) = match running.overlap_stages {
            0 => match kernel.overlap.filter(|own| own.phases().includes(phase) && f64::from(own.sms) < sms) {
                Some(own) => (f64::from(own.stages), f64::from(own.sms)),
                None => return (false, None),
            },
            1 => return (false, None),
            _ if !running.overlap_where.includes(phase) || !running.agrees(self.profile.compute.sms) => {
                return (false, None);
            }
            stages => (f64::from(stages), f64::from(running.overlap_sms)),
        };
        let turns = around.turns && running.overlaps();
        if around.collectives.is_empty() && !turns {
            return (false, None);
        }
        let concurrent = Concurrent {
            order: if turns { Order::Turns } else { Order::Stages },
            timing: self.timing(phase, block, kernel, sms - taken).timing,
            stages,
            slowdown: link.slowdown(taken),
            power_share: link.power_share(taken),
            env: Some(index_of(&mut shared.divisions, stages)),
            ring: None,
            contention,
        };
        (turns, Some(concurrent))
    }

    /// Bytes a kernel moves, but for tensors it finds in registers; and those that never leave the chip.
    fn traffic(&self, block: &Block, flow: &KernelFlow, found: Option<&BTreeSet<&str>>) -> (Traffic, Poly) {
        let mut traffic = Traffic::default();
        let local =
            |moved: &Move| self.mesh.local(self.graph, block, &moved.ranks, moved.routed).scaled(self.bytes_of(moved));
        let read = |moved: &&Move| found.is_none_or(|found| !found.contains(moved.name.as_str()));
        for moved in flow.reads.iter().filter(read) {
            match moved.kind {
                Kind::Weight => traffic.weights.add(&local(moved)),
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
            on_chip.add(&local(moved).scaled(2.0));
        }
        (traffic, on_chip)
    }

    /// Coefficients of a kernel whose first product has an operand of that format, and whether they were fitted for it:
    /// else those of its arithmetic serve, else those of 16 bits.
    pub(super) fn time_set(&self, class: Class, phase: Phase, format: Dtype) -> (&TimeSet, bool) {
        let kernels = &self.profile.kernels;
        let sets = match (class, phase) {
            (Class::Elementwise, _) => return (&kernels.elementwise, true),
            (Class::Attention, Phase::Prefill) => &kernels.attention_prefill,
            (Class::Attention, Phase::Decode) => &kernels.attention_decode,
            (Class::GroupedGemm, _) => &kernels.grouped_gemm,
            (Class::Gemm, _) => &kernels.gemm,
        };
        let own = sets.get(format.name);
        let arithmetic = self.profile.arithmetic(format).name();
        let serves = own.or_else(|| sets.get(arithmetic)).or_else(|| sets.get("bf16"));
        (serves.unwrap_or(&kernels.elementwise), own.is_some() || matches!(format.name, "fp32" | "fp16"))
    }

    /// Format of a product's weight, or of its activations if it has none.
    pub(super) fn operand(&self, line: &Line) -> Dtype {
        match &line.weight {
            Some(weight) => self.format(weight, "weights"),
            None => self.format("", "activations"),
        }
    }

    /// Formats of all matrix products with a weight, each with its class.
    fn operands(&self) -> impl Iterator<Item = (Class, Dtype)> {
        let kernels = self.graph.blocks.iter().flat_map(|block| &block.kernels);
        kernels.flat_map(|kernel| {
            let matrix =
                kernel.lines.iter().filter(|line| matches!(line.work, Work::Matrix(_)) && line.weight.is_some());
            matrix.map(|line| (kernel.class, self.operand(line)))
        })
    }

    /// Variance of joules relative to all of them.
    pub fn common_variance(&self) -> f64 {
        let uncertainty = &self.profile.uncertainty;
        let routed = if self.graph.routed.is_some() { uncertainty.routed } else { 0.0 };
        let narrow = if self.operands().any(|(_, format)| format.bytes < 1.5) { uncertainty.narrow } else { 0.0 };
        uncertainty.common * uncertainty.common + routed * routed + narrow * narrow
    }

    /// The largest batch and context within the fits; none for formats and numbers of GPUs they do not know.
    pub fn range(&self) -> Range {
        let range = self.profile.range;
        let weighted = |class| matches!(class, Class::Gemm | Class::GroupedGemm);
        let mut operands = self.operands().filter(|(class, _)| weighted(*class));
        let known = operands.all(|(class, format)| self.time_set(class, Phase::Decode, format).1);
        // Without clocks to lower, points under a cap run as they would without it, or not at all.
        let cap = if self.profile.clock.range().is_some() { self.running.power_cap_w } else { 0 };
        let measured = known && self.mesh.cp == 1 && Running { power_cap_w: cap, ..self.running }.measured();
        if measured && f64::from(self.mesh.gpus()) <= range.gpus { range } else { Range { batch: 0.0, ..range } }
    }

    /// Routing constants.
    pub fn experts(&self) -> Option<Experts> {
        self.experts.clone()
    }

    /// Weight bytes of one repetition of each block.
    pub fn weights(&self) -> Vec<f64> {
        let mut tied_seen: BTreeSet<&str> = BTreeSet::new();
        let mut all = Vec::new();
        for block in &self.graph.blocks {
            let mut bytes = 0.0;
            for (name, (ranks, routed)) in &self.graph.block_weights(block) {
                let tied = self.graph.tied.get(name);
                if tied.is_none_or(|name| tied_seen.insert(name)) {
                    let copies = match (&self.experts, self.graph.routed) {
                        (Some(experts), Some(rank)) if *routed && ranks.contains(&rank.rank) => {
                            experts.local * f64::from(self.mesh.ep) / rank.extent
                        }
                        _ => 1.0,
                    };
                    let elements = copies * self.mesh.held(self.graph, block, ranks, *routed);
                    bytes += elements * self.format(name, "weights").bytes;
                }
            }
            all.push(bytes);
        }
        all
    }

    /// Cache of one repetition of each block.
    pub fn caches(&self) -> Vec<CacheShape> {
        let shape = |block: &Block| {
            let mut bytes_per_token = 0.0;
            let mut counted: BTreeSet<&str> = BTreeSet::new();
            let mut window: Option<f64> = None;
            for kernel in &block.kernels {
                for line in &kernel.lines {
                    let result = &line.equation.result;
                    if self.graph.cache.contains(&result.name) && counted.insert(&result.name) {
                        let local = self.mesh.local(self.graph, block, &result.ranks, line.routed);
                        let elements: f64 = local.terms().iter().map(|(_, c)| c).sum();
                        bytes_per_token += elements * self.format(&result.name, "cache").bytes;
                    }
                    let reads_cache = line.equation.reads().any(|t| t.has('t') && self.graph.cache.contains(&t.name));
                    if reads_cache {
                        let own = kernel.mask.and_then(|m| m.window).map_or(f64::INFINITY, |w| w as f64);
                        window = Some(window.map_or(own, |w: f64| w.max(own)));
                    }
                }
            }
            CacheShape { bytes_per_token, window: window.unwrap_or(f64::INFINITY) }
        };
        self.graph.blocks.iter().map(shape).collect()
    }
}

fn index_of<X: PartialEq>(list: &mut Vec<X>, item: X) -> usize {
    match list.iter().position(|have| *have == item) {
        Some(index) => index,
        None => {
            list.push(item);
            list.len() - 1
        }
    }
}
