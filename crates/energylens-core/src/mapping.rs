//! A model on a GPU type over a mesh in given formats: every constant of its kernels, resolved once.

mod exchanges;
mod laid_out;
mod lower;
mod timing;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::cost::collective::Collective;
use crate::cost::kernel::{Experts, KernelCost};
use crate::cost::overlap::Contention;
use crate::cost::power::{Cap, Governor, Lower};
use crate::cost::program::Program;
use crate::einsum::shape::Poly;
use crate::graph::Graph;
use crate::hardware::dtype::Dtype;
use crate::hardware::profile::{Power, Profile, Range};
use crate::mesh::{Infeasible, Mesh, Reason};
use crate::plan::MaskSpec;
use crate::routing::table::known;
use crate::routing::{Choice, Law, Placement};
use crate::running::Running;

pub use laid_out::{LaidOut, Unclocked, blocks};

/// Formats the point asks for in place of the spec's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Formats {
    /// For weights that the spec does not name.
    pub weights: Option<Dtype>,
    /// For the cache.
    pub cache: Option<Dtype>,
}

/// A named kernel of a mapping.
#[derive(Clone, Debug)]
pub struct MappedKernel {
    /// Block and kernel in the graph.
    pub place: (usize, usize),
    /// Its cost.
    pub cost: KernelCost,
}

/// Kernels by block.
pub type Blocks = Vec<Vec<MappedKernel>>;

/// One phase of a mapping.
#[derive(Clone, Debug)]
pub struct MappedPhase {
    /// Its kernels, summed up by kind of stage.
    pub program: Program,
    /// Hand-over to the next stage.
    pub send: Option<Collective>,
    /// Whether one pass's hand-over travels beside the next.
    pub sends_beside: bool,
    /// Contention of what runs at once.
    pub contention: Contention,
    /// Masks its kernels use.
    pub masks: Vec<MaskSpec>,
    /// Stage counts that need a divided environment.
    pub divisions: Vec<f64>,
    /// Fixed seconds by kind of stage, kernels and collectives, and sequences of a data-parallel rank; made at first use.
    pub fixed: OnceLock<Vec<f64>>,
}

/// Stages that hold the same layers.
#[derive(Clone, Debug, PartialEq)]
pub struct StageKind {
    /// How many such stages.
    pub stages: f64,
    /// Repetitions of each block.
    pub counts: Vec<f64>,
}

/// Cache bytes of a block: of one sequence and token, and the window beyond which nothing is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheShape {
    /// Bytes per token of one GPU.
    pub bytes_per_token: f64,
    /// Longest kept stretch.
    pub window: f64,
}

/// Constants of the whole step.
#[derive(Clone, Copy, Debug)]
pub struct StepConstants {
    /// Host seconds of a pass and stage.
    pub host_s: f64,
    /// Seconds of a pass and stage for each sequence.
    pub sequence_s: f64,
    /// Waiting power.
    pub static_w: f64,
    /// More while kernels run.
    pub active_w: f64,
    /// More during exposed communication.
    pub communication_w: f64,
    /// Joules of a pass and stage for each sequence.
    pub sequence_j: f64,
    /// Power limit.
    pub tdp_w: f64,
    /// GPU memory.
    pub capacity_bytes: f64,
    /// Memory not for the model.
    pub reserve_bytes: f64,
    /// Prompt tokens of one pass.
    pub max_batched_tokens: f64,
    /// Variances of joules, relative to the joules of each cause.
    pub cause_variance: [f64; 7],
    /// Variance of joules, relative to all of them.
    pub common_variance: f64,
    /// The largest batch and context the fits reach; a batch of 0 if none is within them.
    pub range: Range,
}

/// Everything constant over batch and lengths. Mappings that differ in their caps share all else.
#[derive(Clone, Debug)]
pub struct Mapping {
    laid_out: Arc<LaidOut>,
    /// What holds the SM clock down, where a lock or a cap is asked for and the GPU's clocks are known.
    pub governor: Option<Governor>,
    /// Watts that no stage may draw on a GPU whose clocks are not known, so that nobody knows what a cap would do to it.
    pub most_w: Option<f64>,
}

impl Deref for Mapping {
    type Target = LaidOut;

    fn deref(&self) -> &LaidOut {
        &self.laid_out
    }
}

impl Mapping {
    /// Holds the clock of a layout down as is asked for.
    ///
    /// # Errors
    /// Why that cannot be had.
    pub fn new(laid_out: Arc<LaidOut>, profile: &Profile, running: Running) -> Result<Self, Infeasible> {
        let locked = laid_out.locked.as_ref();
        running.check(profile, locked, laid_out.mesh, laid_out.has)?;
        let profile = locked.unwrap_or(profile);
        let (governor, most_w) = (governor(profile, running), most_w(profile, running));
        Ok(Self { laid_out, governor, most_w })
    }

    /// The same with the clock held down otherwise.
    #[must_use]
    pub fn governed(&self, governor: Governor) -> Self {
        Self { laid_out: Arc::clone(&self.laid_out), governor: Some(governor), most_w: self.most_w }
    }

    /// Bytes it takes, with those of its layout; with what tables it will have, if it is used with them.
    pub fn bytes(&self, tables: bool) -> usize {
        let clocks = |clocks: &Vec<Lower>| clocks.capacity() * size_of::<Lower>();
        let of =
            |governor: &Governor| clocks(&governor.clocks) + governor.cap.as_ref().map_or(0, |cap| clocks(&cap.clocks));
        size_of::<Self>() + self.governor.as_ref().map_or(0, of) + self.laid_out.bytes(tables)
    }
}

/// Settings of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Prompt tokens of one pass.
    pub max_batched_tokens: f64,
    /// Laws that points may ask for.
    pub routings: &'a [Law],
}

/// How tokens load the experts of a mesh.
fn routed(graph: &Graph, mesh: Mesh, running: Running, laws: &[Law]) -> Result<Option<Experts>, Infeasible> {
    let fault =
        |reason, message: String, hint: &str| Err(Infeasible { reason, message, hint: hint.to_owned(), rank: None });
    let Some(routed) = graph.routed else {
        return match (running.routing, running.placement) {
            (0, 0) => Ok(None),
            (0, _) => fault(Reason::Placement, "a placement, but there are no experts".to_owned(), "leave it out"),
            _ => fault(Reason::Routing, "a law of routing, but there are no experts".to_owned(), "leave it out"),
        };
    };
    let own = graph.ranks.get(&routed.rank).map(|rank| &rank.routing);
    let law = match running.routing {
        0 => own,
        asked => laws.get(usize::from(asked) - 1),
    };
    let Some(law) = law else { return fault(Reason::Routing, "the plan has no such law of routing".to_owned(), "") };
    let (experts, active, gpus) = (routed.extent as usize, routed.active as usize, mesh.ep as usize);
    if let Some(message) = law.fault(experts, active) {
        return fault(Reason::Routing, message, "count the tokens of every expert, of those without any too");
    }
    let placement = Placement::of(running.placement);
    if placement != Placement::Contiguous && gpus == 1 {
        return fault(Reason::Placement, "a placement, but one GPU holds all experts".to_owned(), "use ep 2 or more");
    }
    if !(experts + placement.more()).is_multiple_of(gpus) {
        let message = format!("{} copies besides {experts} experts do not divide over ep {gpus}", placement.more());
        return fault(Reason::Placement, message, "use a multiple of ep");
    }
    let choice = Choice { experts, active, gpus };
    Ok(Some(Experts {
        pool: f64::from(mesh.dp),
        active: routed.active,
        gpus: f64::from(mesh.ep),
        sent: mesh.dp > 1,
        local: (experts + placement.more()) as f64 / gpus as f64,
        table: known(law, choice, placement),
    }))
}

/// Watts that no stage may draw, where a cap is asked for and there are no clocks to lower.
fn most_w(profile: &Profile, running: Running) -> Option<f64> {
    (running.power_cap_w > 0 && profile.clock.range().is_none()).then(|| f64::from(running.power_cap_w))
}

/// What holds the SM clock of a GPU, locked already if it is, down.
fn governor(profile: &Profile, running: Running) -> Option<Governor> {
    let (clocks, power) = (&profile.clock, &profile.power);
    let locked = (running.sm_clock_mhz > 0).then(|| f64::from(running.sm_clock_mhz));
    let mhz = locked.unwrap_or(clocks.max_mhz);
    let watts = Some(f64::from(running.power_cap_w)).filter(|watts| *watts > 0.0);
    (running.governed() && clocks.range().is_some()).then(|| Governor {
        lock: locked.map_or(Lower::SAME, |mhz| clocks.lower(mhz, clocks.max_mhz)),
        clocks: clocks.below(clocks.max_mhz),
        cap: watts.filter(|watts| *watts < power.tdp_w).map(|watts| Cap { watts, clocks: clocks.below(mhz) }),
        static_w: power.static_w,
        active_w: power.active_w,
        tdp_w: power.tdp_w,
    })
}

impl Running {
    /// Whether what is asked for can be had.
    fn check(
        &self,
        profile: &Profile,
        locked: Option<&Profile>,
        mesh: Mesh,
        found: [lower::Found; 2],
    ) -> Result<(), Infeasible> {
        let fault = |reason, message: String, hint: String| Err(Infeasible { reason, message, hint, rank: None });
        let any = |has: fn(&lower::Found) -> bool| found.iter().any(has);
        if self.sequence_parallel && !any(|found| found.reduced) {
            let message = format!("sequence parallelism, but nothing is reduced over tp {}", mesh.tp);
            return fault(Reason::Shard, message, "use tp 2 or more".to_owned());
        }
        if self.fused_norm && (self.sequence_parallel || !any(|found| found.fused)) {
            let message = "fused norm, but no norm directly follows an all_reduce".to_owned();
            return fault(
                Reason::Shard,
                message,
                "use it with tp 2 or more and without sequence parallelism".to_owned(),
            );
        }
        let sms = profile.compute.sms;
        if !self.agrees(sms) {
            let (stages, place) = (self.overlap_stages, self.overlap_where.name());
            let (message, hint) = match stages {
                0 => (
                    format!("overlap in {place} on {} SMs, but in no stages", self.overlap_sms),
                    "say in how many stages and on how many SMs as well".to_owned(),
                ),
                _ => (
                    format!("overlap in {stages} stages with {} communication SMs in {place}", self.overlap_sms),
                    format!("use 2 or more stages with 1 to {} SMs, or 1 stage with none, in prefill", sms - 1),
                ),
            };
            return fault(Reason::Overlap, message, hint);
        }
        if self.overlaps() && mesh.cp > 1 && any(|found| found.turns) {
            let message = "micro-batches of experts do not take turns with context parallelism".to_owned();
            return fault(Reason::Overlap, message, "use cp 1, or 1 stage and 0 SMs".to_owned());
        }
        if self.overlaps() && !any(|found| found.overlapped) {
            let message = "there is nothing that overlap could hide".to_owned();
            return fault(Reason::Overlap, message, "use 1 stage and 0 SMs".to_owned());
        }
        if self.sm_clock_mhz > 0 && locked.is_none() {
            let message = format!("an SM clock of {} MHz", self.sm_clock_mhz);
            let hint = match profile.clock.range() {
                Some((lowest, highest)) => format!("{} can be locked to {lowest:.0} to {highest:.0} MHz", profile.name),
                None => format!("the profile of {} has no table of clocks", profile.name),
            };
            return fault(Reason::Clock, message, hint);
        }
        let (cap, power) = (f64::from(self.power_cap_w), &locked.unwrap_or(profile).power);
        if cap > 0.0 && !(power.static_w < cap && cap <= power.tdp_w) {
            return fault(Reason::Power, format!("a power cap of {cap} W"), self.caps(profile, power));
        }
        Ok(())
    }

    /// Which caps a GPU takes, and at which clock: what it draws while it waits falls with the clock.
    fn caps(&self, profile: &Profile, power: &Power) -> String {
        let (lowest, highest) = (power.static_w.floor() + 1.0, power.tdp_w.floor());
        match (self.sm_clock_mhz, profile.clock.range()) {
            _ if lowest > highest => format!(
                "leave it out: there is none between the {:.0} W of a GPU that waits and the {highest:.0} W of its board",
                power.static_w
            ),
            (0, Some((_, mhz))) => format!(
                "use {lowest:.0} to {highest:.0} W: {lowest:.0} W is the lowest cap at its highest clock, {mhz:.0} MHz, \
                 and lower ones go with a lower clock"
            ),
            (mhz, Some(_)) => {
                format!("use {lowest:.0} to {highest:.0} W: {lowest:.0} W is the lowest cap at {mhz} MHz")
            }
            _ => format!("use {lowest:.0} to {highest:.0} W"),
        }
    }
}

/// Activation traffic of the kernels that no other exceeds term by term.
fn largest_activations(blocks: &Blocks) -> Vec<(Option<usize>, Poly)> {
    let mut largest: Vec<(Option<usize>, Poly)> = Vec::new();
    for kernel in blocks.iter().flatten() {
        let own = (kernel.cost.mask, kernel.cost.traffic.activations.clone());
        let within = |small: &(Option<usize>, Poly), large: &(Option<usize>, Poly)| {
            let of = |bits| large.1.terms().iter().find(|(b, _)| *b == bits).map_or(0.0, |(_, c)| *c);
            small.0 == large.0 && small.1.terms().iter().all(|(bits, c)| *c <= of(*bits))
        };
        if !largest.iter().any(|large| within(&own, large)) {
            largest.retain(|small| !within(small, &own));
            largest.push(own);
        }
    }
    largest
}

/// Deals layers to stages contiguously, the first ones taking what is left over; equal stages are counted together.
pub fn stage_kinds(graph: &Graph, pp: u32) -> Vec<StageKind> {
    let blocks = &graph.blocks;
    let layers = graph.layers();
    let stages = u64::from(pp);
    let mut rows = vec![vec![0.0; blocks.len()]; pp as usize];
    let end_of = |stage: u64| (stage + 1) * (layers / stages) + (stage + 1).min(layers % stages);
    let first_repeated = blocks.iter().position(|block| block.repeat > 1).unwrap_or(blocks.len());
    let (mut stage, mut dealt) = (0_u64, 0_u64);
    for (i, block) in blocks.iter().enumerate() {
        if block.repeat <= 1 {
            let at = if i < first_repeated { 0 } else { rows.len() - 1 };
            rows[at][i] += 1.0;
            continue;
        }
        let mut left = block.repeat;
        while left > 0 {
            let room = end_of(stage).saturating_sub(dealt);
            if room == 0 {
                stage += 1;
                continue;
            }
            let taken = room.min(left);
            rows[usize::try_from(stage).unwrap_or(0)][i] += taken as f64;
            dealt += taken;
            left -= taken;
        }
    }
    let mut kinds: Vec<StageKind> = Vec::new();
    for counts in rows {
        match kinds.iter_mut().find(|kind| kind.counts == counts) {
            Some(kind) => kind.stages += 1.0,
            None => kinds.push(StageKind { stages: 1.0, counts }),
        }
    }
    kinds
}
