//! From graph, profile and mesh to the constants of each kernel.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::{CacheShape, Formats, MappedKernel, MappedPhase, StageKind};
use crate::cost::attention::{Attention, Blocks, QUERY_ROWS};
use crate::cost::collective::{Collective, Group, Operation};
use crate::cost::elementwise::Vector;
use crate::cost::gemm::{Product, Tiling};
use crate::cost::kernel::{Experts, KernelCost, Prices, Staging, Timing, Traffic};
use crate::cost::moe::{Hits, power};
use crate::cost::program::Program;
use crate::einsum::count::{MatrixRanks, Work};
use crate::einsum::shape::{B, Poly, S, T};
use crate::einsum::{Function, Rank};
use crate::graph::flow::{Exchange, KernelFlow, Kind, Move, Partial};
use crate::graph::{Axis, Block, Class, Graph, Kernel, Line};
use crate::hardware::dtype::{Arithmetic, DTYPES, Dtype, dtype};
use crate::hardware::profile::{Profile, Range, TimeSet};
use crate::mesh::Mesh;
use crate::plan::{MaskSpec, Phase};

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
}

impl Lowering<'_> {
    /// Format of a tensor: by name, else by kind, the point's choice before the spec's.
    fn format(&self, name: &str, kind: &str) -> Dtype {
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

    /// One phase of the model.
    pub fn phase(&self, phase: Phase, kinds: &[StageKind]) -> MappedPhase {
        let flows = self.graph.flow(phase, self.mesh.dp == 1);
        let mut masks: Vec<MaskSpec> = Vec::new();
        let mut divisions: Vec<f64> = Vec::new();
        let mut blocks: Vec<Vec<MappedKernel>> = Vec::new();
        for (i, (block, block_flow)) in self.graph.blocks.iter().zip(flows).enumerate() {
            let mapped = block_flow.kernels.iter().map(|kernel_flow| MappedKernel {
                place: (i, kernel_flow.kernel),
                cost: self.kernel(phase, block, kernel_flow, &mut masks, &mut divisions),
            });
            blocks.push(mapped.collect());
        }
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
        let mut program = Program::new(phase == Phase::Decode);
        for kind in kinds {
            program.next_stage();
            for (kernels, count) in blocks.iter().zip(&kind.counts).filter(|(_, count)| **count > 0.0) {
                kernels.iter().for_each(|kernel| program.add(&kernel.cost, *count));
            }
            send.iter().for_each(|send| program.add_collective(send, 1.0));
        }
        MappedPhase { blocks, program, masks, divisions, fixed: OnceLock::new() }
    }

    fn kernel(
        &self,
        phase: Phase,
        block: &Block,
        flow: &KernelFlow,
        masks: &mut Vec<MaskSpec>,
        divisions: &mut Vec<f64>,
    ) -> KernelCost {
        let kernel = &block.kernels[flow.kernel];
        let mask = kernel.mask.map(|mask| index_of(masks, mask));
        let sms = f64::from(self.profile.compute.sms);
        let (timing, flop_j, padding_j) = self.timing(phase, block, kernel, sms);
        let (traffic, on_chip) = self.traffic(block, flow);
        let mut compute_j = flop_j;
        compute_j.add(&on_chip.scaled(self.profile.energy.on_chip_j_per_byte));
        let collectives: Vec<Collective> = flow.exchanges.iter().flat_map(|e| self.collectives(block, e)).collect();
        let staging =
            kernel.overlap.filter(|o| !collectives.is_empty() && f64::from(o.sms) < sms).map(|overlap| Staging {
                stages: f64::from(overlap.stages),
                timing: self.timing(phase, block, kernel, sms - f64::from(overlap.sms)).0,
                share: (f64::from(overlap.sms) / self.profile.link.sms_to_saturate).min(1.0),
                env: index_of(divisions, f64::from(overlap.stages)),
            });
        let energy = &self.profile.energy;
        let prices = Prices {
            weight_j: energy.hbm_weight_j_per_byte,
            cache_j: energy.hbm_kv_j_per_byte,
            activation_j: energy.hbm_activation_j_per_byte,
        };
        KernelCost { timing, traffic, mask, compute_j, padding_j, prices, collectives, staging }
    }

    fn traffic(&self, block: &Block, flow: &KernelFlow) -> (Traffic, Poly) {
        let mut traffic = Traffic::default();
        let local =
            |moved: &Move| self.mesh.local(self.graph, block, &moved.ranks, moved.routed).scaled(self.bytes_of(moved));
        for moved in &flow.reads {
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

    /// Time of a kernel on `sms` SMs, joules of its FLOPs, and those of its padding for each expert hit.
    fn timing(&self, phase: Phase, block: &Block, kernel: &Kernel, sms: f64) -> (Timing, Poly, f64) {
        let profile = self.profile;
        let peaks = &profile.compute.peak_flops;
        let class = kernel.class;
        let mut first: Option<Dtype> = None;
        let mut matrix: Vec<(&Line, &MatrixRanks, Arithmetic)> = Vec::new();
        let total_sms = f64::from(profile.compute.sms);
        // Measured attention holds the time of its softmax.
        let free = class == Class::Attention;
        let seconds_per_flop = if free { 0.0 } else { total_sms / sms / peaks.vector };
        let mut vector = Vector { flops: Poly::default(), seconds_per_flop };
        let mut joules = Poly::default();
        for line in &kernel.lines {
            let flops = self.product_flops(block, line);
            if let Work::Matrix(ranks) = &line.work {
                let format = self.operand(line);
                let arithmetic = profile.arithmetic(format);
                first = first.or(Some(format));
                joules.add(&flops.scaled(profile.flop_j(arithmetic)));
                matrix.push((line, ranks, arithmetic));
            } else {
                vector.flops.add(&flops);
            }
            vector.flops.add(&self.function_flops(block, line));
        }
        joules.add(&vector.flops.scaled(profile.energy.flop_j.vector));
        let format = if class == Class::Attention { self.cache_format(kernel) } else { first.unwrap_or(DTYPES[1]) };
        let set = self.time_set(class, phase, format).0.clone();
        let busiest = match self.graph.routed {
            Some(routed) if class == Class::GroupedGemm => 1.0 + routed.imbalance * f64::from(self.mesh.ep - 1).sqrt(),
            _ => 1.0,
        };
        let tiles: Vec<(f64, f64, f64)> =
            set.tiles.iter().map(|&(m, n, share)| (f64::from(m), f64::from(n), share)).collect();
        let rate = |arithmetic| profile.peak(arithmetic) * set.compute_efficiency / busiest;
        let bandwidth = profile.memory.bandwidth_bytes_per_s / busiest;
        let attention =
            (class == Class::Attention).then(|| self.attention(phase, block, kernel, &matrix, (sms, total_sms), &set));
        let products =
            if class == Class::Attention { Vec::new() } else { self.products(block, &matrix, total_sms, &rate) };
        let padding: f64 = products.iter().filter(|product| product.grouped).map(padded_elements).sum();
        let padding_j =
            2.0 * set.padding_rows * padding * profile.flop_j(profile.arithmetic(first.unwrap_or(DTYPES[1])));
        let timing = Timing {
            seconds_per_byte: 1.0 / (bandwidth * set.memory_efficiency),
            tiling: Tiling::new(&tiles, sms, set.depth_0, set.split_s),
            added: self.added(&products, &set, bandwidth),
            expert_s: if class == Class::GroupedGemm { set.expert_s * busiest } else { 0.0 },
            set: TimeSet { root_s_per_sqrt_byte: set.root_s_per_sqrt_byte * busiest, ..set },
            products,
            attention,
            vector,
        };
        (timing, joules, padding_j)
    }

    /// Coefficients of a kernel whose first product has an operand of that format, and whether they were fitted for it:
    /// else those of its arithmetic serve, else those of 16 bits.
    fn time_set(&self, class: Class, phase: Phase, format: Dtype) -> (&TimeSet, bool) {
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

    /// Format of the first cache tensor a kernel reads; of activations if it reads none.
    fn cache_format(&self, kernel: &Kernel) -> Dtype {
        let mut reads = kernel.lines.iter().flat_map(|line| line.equation.reads());
        let cached = reads.find(|tensor| self.graph.cache.contains(&tensor.name));
        cached.map_or_else(|| self.format("", "activations"), |tensor| self.format(&tensor.name, "cache"))
    }

    /// Seconds added to a kernel of matrix products: quantising their inputs, sorting tokens by expert.
    fn added(&self, products: &[Product], set: &TimeSet, bandwidth: f64) -> Poly {
        let mut added = Poly::default();
        for product in products.iter().filter(|product| !product.grouped && set.quantise_bytes > 0.0) {
            let elements = times(&times(&product.batch, &product.rows), &product.depth);
            added.add(&elements.scaled(set.quantise_bytes / bandwidth));
        }
        if let (Some(first), Some(routed)) = (products.iter().find(|product| product.grouped), self.graph.routed) {
            let tokens = Poly::monomial(B | S, f64::from(self.mesh.dp) * routed.active);
            added.add(&times(&tokens, &first.depth).scaled(set.routed_bytes / bandwidth));
        }
        added
    }

    /// Format of a product's weight, or of its activations if it has none.
    fn operand(&self, line: &Line) -> Dtype {
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
        if known && f64::from(self.mesh.gpus()) <= range.gpus { range } else { Range { batch: 0.0, ..range } }
    }

    /// Local FLOPs of so many for each element over some ranks.
    fn flops(&self, block: &Block, line: &Line, (each, ranks): (f64, &[Rank])) -> Poly {
        self.mesh.local(self.graph, block, ranks, line.routed).scaled(each)
    }

    /// FLOPs of the product part of an equation.
    fn product_flops(&self, block: &Block, line: &Line) -> Poly {
        line.product_work().map_or_else(Poly::default, |work| self.flops(block, line, work))
    }

    fn function_flops(&self, block: &Block, line: &Line) -> Poly {
        let mut flops = Poly::default();
        line.function_work().for_each(|work| flops.add(&self.flops(block, line, work)));
        flops
    }

    /// Product of the local extents of some ranks of an equation, split as all its ranks together are.
    fn extent(&self, block: &Block, line: &Line, list: &[Rank]) -> Poly {
        let ways = self.mesh.ways(self.graph, block, &line.ranks, line.routed).unwrap_or_default();
        let mut size = Poly::constant(1.0);
        for rank in list {
            let routed = self.graph.routed.is_some_and(|r| r.rank == *rank) && line.routed;
            let one = match self.graph.ranks.get(rank).filter(|_| !routed) {
                None => self.mesh.local(self.graph, block, &[*rank], line.routed),
                Some(whole) => Poly::constant(whole.extent as f64 / f64::from(ways.of(*rank))),
            };
            size = times(&size, &one);
        }
        size
    }

    fn products(
        &self,
        block: &Block,
        matrix: &[(&Line, &MatrixRanks, Arithmetic)],
        sms: f64,
        rate: &dyn Fn(Arithmetic) -> f64,
    ) -> Vec<Product> {
        let mut merged: Vec<(&Line, &MatrixRanks, Arithmetic, Product)> = Vec::new();
        for &(line, ranks, arithmetic) in matrix {
            let extent = |list: &[Rank]| self.extent(block, line, list);
            let grouped = line.grouped();
            let tokens_on_the_right = grouped && ranks.columns.contains(&'b');
            let columns = if tokens_on_the_right { extent(&ranks.rows) } else { extent(&ranks.columns) };
            let same = merged.iter_mut().find(|(other, other_ranks, other_arithmetic, _)| {
                shared_input(other) == shared_input(line)
                    && other_ranks.depth == ranks.depth
                    && other_ranks.batch == ranks.batch
                    && other.routed == line.routed
                    && *other_arithmetic == arithmetic
            });
            match same {
                Some((.., product)) => product.columns.add(&columns),
                None => merged.push((
                    line,
                    ranks,
                    arithmetic,
                    Product {
                        batch: extent(&ranks.batch),
                        rows: extent(&ranks.rows),
                        columns,
                        depth: extent(&ranks.depth),
                        seconds_per_flop: sms / rate(arithmetic),
                        grouped,
                        table: OnceLock::new(),
                    },
                )),
            }
        }
        merged.into_iter().map(|(.., product)| product).collect()
    }

    fn attention(
        &self,
        phase: Phase,
        block: &Block,
        kernel: &Kernel,
        matrix: &[(&Line, &MatrixRanks, Arithmetic)],
        (sms, all_sms): (f64, f64),
        set: &TimeSet,
    ) -> Attention {
        let Some((line, ranks, _)) = matrix.iter().find(|(line, ..)| line.ranks.contains(&'t')) else {
            return Attention::default();
        };
        let list: Vec<Rank> = ranks.batch.iter().chain(&ranks.rows).copied().filter(|r| *r != 's').collect();
        let heads = self.extent(block, line, &list);
        let head_size = self.extent(block, line, &ranks.depth).as_constant().unwrap_or(128.0);
        let reached = set.compute_efficiency * power(head_size / 128.0, set.head_dim_power);
        let mut seconds = Poly::default();
        for (line, _, arithmetic) in matrix {
            let rate = self.profile.peak(*arithmetic) * reached * (sms / all_sms);
            seconds.add(&self.product_flops(block, line).scaled(1.0 / rate));
        }
        if phase == Phase::Decode {
            let sequences = self.extent(block, line, &ranks.batch).scaled(set.sequence_head_s);
            return Attention { seconds, heads, sequences, blocks: None };
        }
        // Of 128 rows of one head on every SM, for one visible token.
        let pairs: f64 = seconds.terms().iter().filter(|(bits, _)| *bits == B | S | T).map(|(_, c)| c).sum();
        let of_one: f64 = heads.terms().iter().map(|(_, c)| c).sum();
        let token_s = QUERY_ROWS * sms * pairs / of_one;
        let blocks = Blocks {
            pad: set.pad_rows,
            token_s: token_s * set.length_factor,
            wave_s: token_s * set.wave_depth,
            window: kernel.mask.and_then(|mask| mask.window).map_or(f64::INFINITY, |window| window as f64),
        };
        Attention { seconds, heads, sequences: Poly::default(), blocks: Some(blocks) }
    }

    /// Collectives of one exchange, the one behind the kernel first and a dispatch before it last.
    fn collectives(&self, block: &Block, exchange: &Exchange) -> Vec<Collective> {
        let (mesh, stage) = (self.mesh, self.mesh.stage_gpus());
        let all = Group { size: stage, span: stage };
        let tp = Group { size: mesh.tp, span: mesh.tp };
        let dp = Group { size: mesh.dp, span: stage };
        let bytes = self.format("", "activations").bytes;
        let local = |moved: &Move| self.mesh.local(self.graph, block, &moved.ranks, moved.routed).scaled(bytes);
        let make = |operation, group, message: Poly| Collective::new(self.profile, operation, group, message);
        let found = match exchange {
            Exchange::Gather { tensor, rank, axis } => {
                let message = local(tensor);
                let ways = self.mesh.ways(self.graph, block, &tensor.ranks, tensor.routed).unwrap_or_default();
                let split = f64::from(ways.of(*rank));
                let group = match axis {
                    Axis::MoeTp => Group { size: mesh.moe_tp(), span: stage },
                    _ => tp,
                };
                if split > 1.0 { vec![make(Operation::AllGather, group, message.scaled(split))] } else { Vec::new() }
            }
            Exchange::Reduce { partial: Partial::Tp, tensor, summed: (over, all_ranks) } => {
                let ways = mesh.ways(self.graph, block, all_ranks, false).unwrap_or_default();
                let split = over.iter().any(|rank| ways.of(*rank) > 1);
                if split { vec![make(Operation::AllReduce, tp, local(tensor))] } else { Vec::new() }
            }
            Exchange::Reduce { tensor, .. } if mesh.dp == 1 => vec![make(Operation::AllReduce, all, local(tensor))],
            Exchange::Reduce { tensor, .. } if mesh.moe_tp() == 1 => {
                let active = self.graph.routed.map_or(1.0, |r| r.active);
                let message = local(tensor).scaled(active / f64::from(mesh.tp));
                vec![
                    make(Operation::AllToAll, all, message.clone()),
                    make(Operation::AllGather, tp, local(tensor)),
                    make(Operation::AllToAll, all, message),
                ]
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
        found.into_iter().flatten().collect()
    }

    /// Routing constants.
    pub fn experts(&self) -> Option<Experts> {
        self.graph.routed.map(|routed| Experts {
            pool: f64::from(self.mesh.dp),
            active_per_gpu: routed.active / f64::from(self.mesh.ep),
            hits: Hits::new(routed.extent, routed.active, f64::from(self.mesh.ep)),
        })
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
                    let elements = self.mesh.held(self.graph, block, ranks, *routed);
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

/// Function and tensors of the left factor.
fn shared_input(line: &Line) -> Option<(Option<Function>, Vec<&str>)> {
    line.equation.factors.first().map(|f| (f.function, f.args.iter().map(|t| t.name.as_str()).collect()))
}

/// Elements of one expert's slice of a grouped product's weight.
fn padded_elements(product: &Product) -> f64 {
    product.columns.as_constant().unwrap_or(0.0) * product.depth.as_constant().unwrap_or(0.0)
}

/// Product of two monomials.
fn times(a: &Poly, b: &Poly) -> Poly {
    let mut out = Poly::default();
    for &(bits_a, ca) in a.terms() {
        for &(bits_b, cb) in b.terms() {
            out.add(&Poly::monomial(bits_a | bits_b, ca * cb));
        }
    }
    out
}
