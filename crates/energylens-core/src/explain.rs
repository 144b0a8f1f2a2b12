//! Says in words what the core derived: classes, formulas, collectives, and the cost of one point kernel by kernel.

use serde::Serialize;

use crate::batch::phase::{Passes, PhaseCost, Scratch, phase_cost};
use crate::batch::serve::{Requests, context, decode_passes, prefill_passes};
use crate::cost::kernel::{KernelCost, TimingOptions};
use crate::cost::overlap::Order;
use crate::cost::power::{Cap, Governor};
use crate::einsum::Rank;
use crate::einsum::count::Work;
use crate::engine::{Plan, Point};
use crate::graph::flow::{Exchange, Kind, Move, Partial};
use crate::graph::{Axis, Block, Class, Graph, Line};
use crate::lowering::mapping::{Blocks, MappedPhase, Mapping};
use crate::lowering::mesh::{Infeasible, Mesh};
use crate::numeric::lanes::LANES;
use crate::phase::Phase;

/// What one equation is.
#[derive(Clone, Debug, Serialize)]
pub struct LineStory {
    /// The equation.
    pub equation: String,
    /// `matrix`, `grouped` or `vector`.
    pub work: &'static str,
    /// Roles of the ranks of a matrix product, as `M=b·s N=f K=d`.
    pub roles: String,
    /// FLOPs of one GPU as a formula.
    pub flops: String,
    /// The same with extents put in, on one GPU.
    pub flops_value: String,
}

/// What one kernel is.
#[derive(Clone, Debug, Serialize)]
pub struct KernelStory {
    /// Block.
    pub block: String,
    /// Times the block runs.
    pub repeat: u64,
    /// Kernel.
    pub kernel: String,
    /// Class.
    pub class: &'static str,
    /// `prefill` or `decode` if it runs in one phase only.
    pub phase: Option<&'static str>,
    /// Equations.
    pub lines: Vec<LineStory>,
    /// Tensors from memory, with their element formulas.
    pub reads: Vec<String>,
    /// Tensors to memory.
    pub writes: Vec<String>,
    /// Tensors that never reach memory.
    pub inside: Vec<String>,
    /// Collectives behind it.
    pub collectives: Vec<String>,
}

/// Seconds and joules of one kernel at one point, of one GPU and one run of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelCostStory {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// Block.
    pub block: String,
    /// Kernel.
    pub kernel: String,
    /// Class.
    pub class: &'static str,
    /// Runs of it in one pass of the whole model.
    pub runs: f64,
    /// Seconds of the kernel.
    pub kernel_s: f64,
    /// Exposed seconds of its collectives.
    pub communication_s: f64,
    /// FLOPs, without padding.
    pub flops: f64,
    /// Bytes of HBM.
    pub hbm_bytes: f64,
    /// Most FLOPs a second of its arithmetic.
    pub peak_flops_per_s: f64,
    /// Joules of FLOPs, on-chip bytes and of running at all.
    pub compute_j: f64,
    /// Of these, FLOPs on padding.
    pub padding_j: f64,
    /// Weight bytes.
    pub hbm_weights_j: f64,
    /// Cache bytes.
    pub hbm_kv_j: f64,
    /// Activation bytes.
    pub hbm_activations_j: f64,
    /// Link bytes.
    pub link_j: f64,
    /// What decides its own time: `compute`, `hbm` or `launch`; `link`, `host` and `cap` of what is no kernel, `compute` of
    /// `board_limit`, which is negative.
    pub bound: &'static str,
    /// Names and sizes of its collectives.
    pub collectives: Vec<String>,
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

struct Formula<'a> {
    graph: &'a Graph,
    block: &'a Block,
}

impl Formula<'_> {
    fn of(&self, factor: &str, ranks: &[Rank], routed: bool) -> String {
        let mut over: Vec<&str> = Vec::new();
        let mut letters: Vec<String> = Vec::new();
        for rank in ranks {
            let axis = self.block.shard.iter().find(|(r, _)| r == rank).map(|(_, a)| *a);
            let split = match axis {
                Some(Axis::Tp) => !routed,
                Some(Axis::MoeTp) => routed,
                _ => false,
            };
            if routed && self.graph.routed.is_some_and(|r| r.rank == *rank) {
                letters.push("active".to_owned());
                over.push("ep");
                continue;
            }
            letters.push(rank.to_string());
            if let (true, Some(axis)) = (split, axis)
                && !over.contains(&axis.name())
            {
                over.push(axis.name());
            }
        }
        let product: Vec<&str> =
            std::iter::once(factor).filter(|f| !f.is_empty()).chain(letters.iter().map(String::as_str)).collect();
        let product = if product.is_empty() { "1".to_owned() } else { product.join("·") };
        match over.as_slice() {
            [] => product,
            [one] => format!("{product} / {one}"),
            many => format!("{product} / ({})", many.join("·")),
        }
    }

    fn line(&self, line: &Line) -> LineStory {
        let one = Mesh { tp: 1, pp: 1, dp: 1, ep: 1, cp: 1 };
        let (mut flops, mut values) = (Vec::new(), Vec::new());
        for (each, ranks) in line.product_work().into_iter().chain(line.function_work()) {
            flops.push(self.of(&each.to_string(), ranks, line.routed));
            values.push(one.local(self.graph, self.block, ranks, line.routed).scaled(each).to_string());
        }
        let roles = match &line.work {
            Work::Vector => String::new(),
            Work::Matrix(ranks) => {
                let join = |list: &[Rank]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("·");
                let named = [("batch", &ranks.batch), ("M", &ranks.rows), ("N", &ranks.columns), ("K", &ranks.depth)];
                let parts = named.iter().filter(|(_, r)| !r.is_empty()).map(|(name, r)| format!("{name}={}", join(r)));
                parts.collect::<Vec<_>>().join(" ")
            }
        };
        let work = match (&line.work, line.grouped()) {
            (Work::Vector, _) => "vector",
            (_, true) => "grouped",
            _ => "matrix",
        };
        LineStory {
            equation: line.equation.to_string(),
            work,
            roles,
            flops: flops.join(" + "),
            flops_value: values.join(" + "),
        }
    }

    fn moved(&self, moved: &Move) -> String {
        let kind = match moved.kind {
            Kind::Weight => " weight",
            Kind::ExpertWeight => " weight of each expert hit",
            Kind::Cache => " KV cache",
            Kind::Activation => "",
        };
        let ranks: Vec<Rank> = match (moved.kind, self.graph.routed) {
            (Kind::ExpertWeight, Some(r)) => moved.ranks.iter().copied().filter(|rank| *rank != r.rank).collect(),
            _ => moved.ranks.clone(),
        };
        format!("{}{kind}: {}", moved.name, self.of("", &ranks, moved.routed))
    }

    fn exchange(&self, exchange: &Exchange) -> String {
        match exchange {
            Exchange::Gather { tensor, rank, axis } => {
                format!("all_gather {} along {rank} over {}", tensor.name, axis.name())
            }
            Exchange::Reduce { partial, tensor, .. } => {
                let elements = self.of("", &tensor.ranks, tensor.routed);
                let over = match partial {
                    Partial::Tp => "tp",
                    Partial::MoeTp => "moe_tp (all GPUs of the stage)",
                    Partial::Experts => {
                        "ep·moe_tp (all GPUs of the stage; dispatch and combine, or gather and scatter, where dp > 1)"
                    }
                };
                format!("all_reduce {} over {over}: {elements}", tensor.name)
            }
        }
    }
}

/// Everything derived from a model's text.
pub fn model(graph: &Graph) -> Vec<KernelStory> {
    let mut stories = Vec::new();
    let flows = [graph.flow(Phase::Prefill, true), graph.flow(Phase::Decode, true)];
    for (i, block) in graph.blocks.iter().enumerate() {
        let formula = Formula { graph, block };
        for (k, kernel) in block.kernels.iter().enumerate() {
            let phase = if kernel.runs_in(Phase::Prefill) { 0 } else { 1 };
            let Some(moved) = flows[phase][i].kernels.iter().find(|f| f.kernel == k) else { continue };
            let list = |moves: &[Move]| moves.iter().map(|m| formula.moved(m)).collect();
            stories.push(KernelStory {
                block: block.name.clone(),
                repeat: block.repeat,
                kernel: kernel.name.clone(),
                class: kernel.class.name(),
                phase: kernel.phase.map(phase_name),
                lines: kernel.lines.iter().map(|line| formula.line(line)).collect(),
                reads: list(&moved.reads),
                writes: list(&moved.writes),
                inside: list(&moved.inside),
                collectives: moved.exchanges.iter().map(|e| formula.exchange(e)).collect(),
            });
        }
    }
    stories
}

/// Watts of the stage that draws the most on average, in prefill and in a decode step; 0 but for a point under a cap on a
/// GPU whose clocks are not known.
///
/// # Errors
/// Why the point cannot be laid out.
pub fn drawn_w(plan: &Plan, point: &Point) -> Result<[f64; 2], Infeasible> {
    let mapped = plan.mapping(point);
    let mapping = mapped.as_ref().as_ref().map_err(Clone::clone)?;
    let [batch, prompt_tokens, output_tokens] =
        [point.batch, point.prompt_tokens, point.output_tokens].map(|value| [value; LANES]);
    let requests = Requests { batch, prompt_tokens, output_tokens };
    let first = prefill_passes(mapping, &requests);
    let then = decode_passes(mapping, &requests.batch, &context(&requests));
    Ok([(&mapping.prefill, &first), (&mapping.decode, &then)].map(|(mapped, passes)| {
        let (mut scratch, mut cost) = (Scratch::default(), PhaseCost::NONE);
        scratch.evaluate_context_free(mapping, mapped, passes, false);
        phase_cost(mapping, mapped, passes, false, &mut scratch, &mut cost);
        scratch.drawn_w[0]
    }))
}

/// The cost of one point, kernel by kernel.
///
/// # Errors
/// Why the point cannot be laid out.
pub fn point(plan: &Plan, point: &Point) -> Result<Vec<KernelCostStory>, Infeasible> {
    let mapped = plan.mapping(point);
    let mapping = mapped.as_ref().as_ref().map_err(Clone::clone)?;
    let Some(graph) = plan.graphs.get(point.model as usize) else { return Ok(Vec::new()) };
    let requests = Requests {
        batch: [point.batch; LANES],
        prompt_tokens: [point.prompt_tokens; LANES],
        output_tokens: [point.output_tokens; LANES],
    };
    let [first, then] = plan.kernels(point)?;
    let (prefill, passes) = ((&mapping.prefill, &first), prefill_passes(mapping, &requests));
    let mut stories = phase(graph, mapping, Phase::Prefill, prefill, &passes);
    let (decode, passes) = ((&mapping.decode, &then), decode_passes(mapping, &requests.batch, &context(&requests)));
    stories.extend(phase(graph, mapping, Phase::Decode, decode, &passes));
    Ok(stories)
}

fn phase(
    graph: &Graph,
    mapping: &Mapping,
    phase: Phase,
    (mapped, blocks): (&MappedPhase, &Blocks),
    passes: &Passes,
) -> Vec<KernelCostStory> {
    let mut scratch = Scratch::default();
    let (env, divided) = scratch.environments(mapping, mapped, passes);
    let turns =
        |kernel: &&KernelCost| kernel.concurrent.as_ref().is_some_and(|concurrent| concurrent.order == Order::Turns);
    let mut stories = Vec::new();
    let mut hidden = Vec::new();
    for kernels in blocks {
        // What a block's micro-batches cannot hide is told of its kernels with collectives, each with its share.
        let together = KernelCost::overlapped(kernels.iter().map(|kernel| &kernel.cost).filter(turns));
        let shared =
            together.map(|one| (one.seconds(env, divided, TimingOptions::default()), one.collective_s(env)[0]));
        for kernel in kernels.iter().map(|kernel| &kernel.cost) {
            let own = shared.as_ref().filter(|_| turns(&kernel)).and_then(|(seconds, all)| {
                let part = KernelCost::overlapped([kernel])?.collective_s(env)[0] / if *all > 0.0 { *all } else { 1.0 };
                Some((seconds.exposed_s[0] * part, seconds.hidden_s[0] * part))
            });
            hidden.push(own);
        }
    }
    for (kernel, hidden) in blocks.iter().flatten().zip(hidden) {
        let (i, k) = kernel.place;
        let block = &graph.blocks[i];
        let mut cost = kernel.cost.cost(env, divided);
        if let Some((exposed_s, hidden_s)) = hidden {
            (cost.exposed_s[0], cost.hidden_s[0]) = (exposed_s, hidden_s);
        }
        let (timed, known) = (kernel.cost.timed(&kernel.cost.timing), &kernel.cost.flops);
        let [compute, memory, launch] = timed.bounds(env);
        let mut flops = [0.0; LANES];
        env.bases(kernel.cost.mask).0.add(&known.count, 1.0, &mut flops);
        let bound = match () {
            () if launch >= compute.max(memory) => "launch",
            () if compute >= memory => "compute",
            () => "hbm",
        };
        let collectives = kernel.cost.collectives.iter().map(|c| {
            let bytes = env.plain.value(&c.message)[0];
            format!("{} of {bytes:.0} bytes over {} GPUs", c.operation.name(), c.group.size)
        });
        stories.push(KernelCostStory {
            phase: phase_name(phase),
            block: block.name.clone(),
            kernel: block.kernels[k].name.clone(),
            class: block.kernels[k].class.name(),
            runs: block.repeat as f64 * passes.passes[0],
            kernel_s: cost.kernel_s[0],
            communication_s: cost.exposed_s[0],
            flops: flops[0],
            hbm_bytes: timed.moved(env)[0],
            peak_flops_per_s: known.peak_per_s,
            compute_j: cost.compute_j[0],
            padding_j: env.hits[0] * kernel.cost.padding_j,
            hbm_weights_j: cost.weights_j[0],
            hbm_kv_j: cost.cache_j[0],
            hbm_activations_j: cost.activations_j[0],
            link_j: cost.link_j[0] + mapping.constants.communication_w * (cost.exposed_s[0] + cost.hidden_s[0]),
            bound,
            collectives: collectives.collect(),
        });
    }
    let constants = &mapping.constants;
    for story in &mut stories {
        story.compute_j += constants.active_w * story.kernel_s;
    }
    if constants.sequence_s > 0.0 || constants.sequence_j > 0.0 {
        let kernel_s = constants.sequence_s * passes.b[0];
        stories.push(KernelCostStory {
            phase: phase_name(phase),
            block: "step".to_owned(),
            kernel: "sampling".to_owned(),
            class: Class::Elementwise.name(),
            runs: passes.passes[0],
            kernel_s,
            compute_j: constants.active_w * kernel_s + constants.sequence_j * passes.b[0],
            bound: "launch",
            ..KernelCostStory::default()
        });
    }
    let step = |kernel: &str, kernel_s: f64, communication_s: f64, bound: &'static str| KernelCostStory {
        phase: phase_name(phase),
        block: "step".to_owned(),
        kernel: kernel.to_owned(),
        class: "step",
        runs: passes.passes[0] * f64::from(mapping.mesh.pp),
        kernel_s,
        communication_s,
        bound,
        ..KernelCostStory::default()
    };
    if constants.host_s > 0.0 {
        stories.push(step("host", constants.host_s, 0.0, "host"));
    }
    if let Some(send) = &mapped.send {
        let seconds = send.seconds(env, 1.0, 1.0)[0];
        let link_j = env.plain.value(&send.joules())[0] + constants.communication_w * seconds;
        stories.push(KernelCostStory { link_j, ..step("hand_over", 0.0, seconds, "link") });
    }
    if let Some(governor) = &mapping.governor {
        let added = |cap: Option<Cap>| {
            let governed = mapping.governed(Governor { cap, ..governor.clone() });
            let (mut scratch, mut cost) = (Scratch::default(), PhaseCost::NONE);
            scratch.evaluate_context_free(&governed, mapped, passes, false);
            phase_cost(&governed, mapped, passes, false, &mut scratch, &mut cost);
            scratch.governed_s[0]
        };
        // A lock slows kernels that were measured at the limit's clock less than their own times say.
        let (lock_s, both_s) = (added(None), added(governor.cap.clone()));
        for (kernel, seconds, bound) in [("board_limit", lock_s, "compute"), ("power_cap", both_s - lock_s, "cap")] {
            if seconds != 0.0 {
                stories.push(KernelCostStory { runs: passes.passes[0], ..step(kernel, seconds, 0.0, bound) });
            }
        }
    }
    stories
}
