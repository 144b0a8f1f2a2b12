//! Coefficients of the seconds and joules of one kernel, before any batch and length: products, attention, vector work
//! (sections 5 and 6 of the physics page).

use std::sync::{Arc, OnceLock};

use crate::cost::attention::{Attention, Blocks, QUERY_ROWS};
use crate::cost::elementwise::Vector;
use crate::cost::gemm::{Grouped, Product, Tiling};
use crate::cost::kernel::Flops;
use crate::cost::timing::{Timing, WorkedExperts};
use crate::einsum::count::{MatrixRanks, Work};
use crate::einsum::{Function, Rank};
use crate::graph::{Block, Class, Kernel, Line};
use crate::hardware::dtype::{Arithmetic, Dtype};
use crate::hardware::kernels::TimeSet;
use crate::lowering::context::Lowering;
use crate::numeric::exact::power;
use crate::numeric::shape::{B, Poly, S, T};
use crate::phase::Phase;

/// FLOPs of an element of a matrix product: a multiplication and an addition.
const FLOPS_PER_PRODUCT: f64 = 2.0;

/// Head size at which attention was measured, the base of Eq. 5.7.
const HEAD_SIZE: f64 = 128.0;

/// What a kernel takes, as functions of batch and lengths.
pub struct Measure {
    /// Seconds.
    pub timing: Timing,
    /// Joules of its FLOPs, without padding (Eq. 8.3).
    pub joules: Poly,
    /// Its FLOPs.
    pub flops: Flops,
    /// Joules of the padding of a grouped product, for each expert worked on (second term of Eq. 6.11).
    pub padding_j: f64,
}

impl Lowering<'_> {
    /// Seconds and joules of a kernel on `sms` SMs.
    pub(super) fn timing(&self, phase: Phase, block: &Block, kernel: &Kernel, sms: f64) -> Measure {
        let profile = self.profile;
        let peaks = &profile.compute.peak_flops;
        let class = kernel.class;
        let mut first: Option<Dtype> = None;
        let mut matrix: Vec<(&Line, &MatrixRanks, Arithmetic)> = Vec::new();
        let total_sms = f64::from(profile.compute.sms);
        // Measured attention holds the time of its softmax (Eq. 5.4).
        let softmax_measured = class == Class::Attention;
        let seconds_per_flop = if softmax_measured { 0.0 } else { total_sms / sms / peaks.vector };
        let mut vector = Vector { flops: Poly::default(), seconds_per_flop };
        let (mut joules, mut work) = (Poly::default(), Poly::default());
        for line in &kernel.lines {
            let flops = self.product_flops(block, line);
            work.add(&flops);
            work.add(&self.function_flops(block, line));
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
        // Kernels without a matrix product have the same coefficients in all formats.
        let operand = first.unwrap_or(Dtype::BF16);
        let format = if class == Class::Attention { self.cache_format(kernel) } else { operand };
        let set = self.time_set(class, phase, format).0.clone();
        let tiles: Vec<(f64, f64, f64)> =
            set.tiles.iter().map(|&(m, n, share)| (f64::from(m), f64::from(n), share)).collect();
        let rate = |arithmetic| profile.peak(arithmetic) * set.compute_efficiency;
        let bandwidth = profile.memory.bandwidth_bytes_per_s;
        let attention =
            (class == Class::Attention).then(|| self.attention(phase, block, kernel, &matrix, (sms, total_sms), &set));
        let products = if class == Class::Attention {
            Vec::new()
        } else {
            self.products(block, &matrix, total_sms, &rate, set.idle_experts)
        };
        let padding: f64 = products.iter().filter(|product| product.grouped.is_some()).map(padded_elements).sum();
        let padding_j = FLOPS_PER_PRODUCT * set.padding_rows * padding * profile.flop_j(profile.arithmetic(operand));
        let timing = Timing {
            seconds_per_byte: 1.0 / (bandwidth * set.memory_efficiency),
            tiling: Tiling::new(&tiles, sms, set.depth_0, set.split_s),
            added: self.added(&products, &set, bandwidth),
            expert_s: if class == Class::GroupedGemm { set.expert_s } else { 0.0 },
            worked: WorkedExperts::new(self.experts.as_ref().map_or(0.0, |experts| experts.local), set.idle_experts),
            set,
            products,
            attention,
            vector,
        };
        let peak_per_s = matrix.first().map_or(peaks.vector, |&(_, _, arithmetic)| profile.peak(arithmetic));
        Measure { timing, joules, flops: Flops { count: work, peak_per_s }, padding_j }
    }

    /// Format of the first cache tensor a kernel reads; of activations if it reads none.
    fn cache_format(&self, kernel: &Kernel) -> Dtype {
        let mut reads = kernel.lines.iter().flat_map(|line| line.equation.reads());
        let cached = reads.find(|tensor| self.graph.cache.contains(&tensor.name));
        cached.map_or_else(|| self.activation_format(), |tensor| self.format(&tensor.name, "cache"))
    }

    /// Seconds added to a kernel of matrix products: quantising their inputs (Eq. 5.6), sorting tokens by expert (second term
    /// of Eq. 6.9).
    fn added(&self, products: &[Product], set: &TimeSet, bandwidth: f64) -> Poly {
        let mut added = Poly::default();
        for product in products.iter().filter(|product| product.grouped.is_none() && set.quantise_bytes > 0.0) {
            let elements = times(&times(&product.batch, &product.rows), &product.depth);
            added.add(&elements.scaled(set.quantise_bytes / bandwidth));
        }
        if let (Some(first), Some(routed)) =
            (products.iter().find(|product| product.grouped.is_some()), self.graph.routed)
        {
            let tokens = Poly::monomial(B | S, f64::from(self.mesh.dp) * routed.active);
            added.add(&times(&tokens, &first.depth).scaled(set.routed_bytes / bandwidth));
        }
        added
    }

    /// FLOPs of one GPU: `each` for each local element over the ranks.
    fn flops(&self, block: &Block, line: &Line, (each, ranks): (f64, &[Rank])) -> Poly {
        self.mesh.local(self.graph, block, ranks, line.routed).scaled(each)
    }

    /// FLOPs of the product of an equation on one GPU (Eq. 2.1).
    fn product_flops(&self, block: &Block, line: &Line) -> Poly {
        line.product_work().map_or_else(Poly::default, |work| self.flops(block, line, work))
    }

    /// FLOPs of the functions of an equation on one GPU (Eq. 2.2).
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
            let local = match self.graph.ranks.get(rank).filter(|_| !routed) {
                None => self.mesh.local(self.graph, block, &[*rank], line.routed),
                Some(spec) => Poly::constant(spec.extent as f64 / f64::from(ways.of(*rank))),
            };
            size = times(&size, &local);
        }
        size
    }

    /// Matrix products of a kernel with their local sizes. Products of the same left factor, depth and batch are one, whose
    /// columns are the sum: the shared input is read once, and one launch computes both.
    fn products(
        &self,
        block: &Block,
        matrix: &[(&Line, &MatrixRanks, Arithmetic)],
        sms: f64,
        rate: &dyn Fn(Arithmetic) -> f64,
        idle: f64,
    ) -> Vec<Product> {
        let experts = self.experts.as_ref();
        let mut merged: Vec<(&Line, &MatrixRanks, Arithmetic, Product)> = Vec::new();
        for &(line, ranks, arithmetic) in matrix {
            let extent = |list: &[Rank]| self.extent(block, line, list);
            let grouped = line.grouped();
            let of = experts.filter(|_| grouped);
            // Rows of a grouped product are tokens, on whichever side they are written.
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
                        grouped: of
                            .map(|experts| Grouped { table: Arc::clone(&experts.table), idle: (idle, experts.local) }),
                        table: OnceLock::new(),
                    },
                )),
            }
        }
        merged.into_iter().map(|(.., product)| product).collect()
    }

    /// The matrix work of an attention kernel: by heads and lengths, not by tiles (Eq. 5.7, 5.8, 5.9, 5.10).
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
        let head_size = self.extent(block, line, &ranks.depth).as_constant().unwrap_or(HEAD_SIZE);
        let reached = set.compute_efficiency * power(head_size / HEAD_SIZE, set.head_dim_power);
        let mut seconds = Poly::default();
        for (line, _, arithmetic) in matrix {
            let rate = self.profile.peak(*arithmetic) * reached * (sms / all_sms);
            seconds.add(&self.product_flops(block, line).scaled(1.0 / rate));
        }
        if phase == Phase::Decode {
            let sequences = self.extent(block, line, &ranks.batch).scaled(set.sequence_head_s);
            return Attention { seconds, heads, sequences, blocks: None };
        }
        // Seconds of one visible token of a block of 128 query rows on every SM (Eq. 5.10): pairs of tokens and rows of heads
        // are monomials, whose quotient is constant.
        let pairs: f64 = seconds.terms().iter().filter(|(bits, _)| *bits == B | S | T).map(|(_, c)| c).sum();
        let rows_of_heads: f64 = heads.terms().iter().map(|(_, c)| c).sum();
        let token_s = QUERY_ROWS * sms * pairs / rows_of_heads;
        let blocks = Blocks {
            pad: set.pad_rows,
            token_s: token_s * set.length_factor,
            wave_s: token_s * set.wave_depth,
            window: kernel.mask.and_then(|mask| mask.window).map_or(f64::INFINITY, |window| window as f64),
        };
        Attention { seconds, heads, sequences: Poly::default(), blocks: Some(blocks) }
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
