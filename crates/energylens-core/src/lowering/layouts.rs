//! The layout of a mapping: everything that mappings of different caps share, and of that what all clocks do.

use std::ops::Deref;
use std::sync::Arc;

use super::mapping::{
    Blocks, CacheShape, Formats, MappedPhase, Settings, StageKind, StepConstants, largest_activations, routed,
    stage_kinds,
};
use super::phase::{Found, Lowering};
use crate::cost::kernel::Experts;
use crate::graph::Graph;
use crate::hardware::profile::Profile;
use crate::input::run_options::Running;
use crate::lowering::mesh::{Infeasible, Mesh};
use crate::numeric::shape::Poly;
use crate::phase::Phase;

/// What does not follow the clock.
#[derive(Clone, Debug)]
pub struct Unclocked {
    /// Pipeline stages by content.
    pub kinds: Vec<StageKind>,
    /// Weight bytes of one repetition of each block, and of tied or once-held ones.
    pub weights: Vec<f64>,
    /// Cache of one repetition of each block.
    pub caches: Vec<CacheShape>,
    /// Activation bytes of prefill kernels that may be the largest, each with its mask.
    pub activations: Vec<(Option<usize>, Poly)>,
    /// Routing.
    pub experts: Option<Experts>,
}

impl Unclocked {
    /// Bytes it takes, about.
    pub fn bytes(&self) -> usize {
        let blocks = self.weights.len() * (size_of::<f64>() * (1 + self.kinds.len()) + size_of::<CacheShape>());
        let largest = self.activations.iter().map(|own| size_of_val(own) + own.1.bytes()).sum::<usize>();
        size_of::<Self>() + blocks + largest
    }
}

/// Everything constant over batch and lengths, but for how a cap holds the clock down.
#[derive(Clone, Debug)]
pub struct LaidOut {
    /// Mesh.
    pub mesh: Mesh,
    /// Prefill.
    pub prefill: MappedPhase,
    /// Decode.
    pub decode: MappedPhase,
    /// What locked clocks share.
    unclocked: Arc<Unclocked>,
    /// Step constants.
    pub constants: StepConstants,
    /// The GPU locked to the clock, if it can be and is: what a cap goes by.
    pub(super) locked: Option<Profile>,
    /// What the phases were found to have.
    pub(super) has: [Found; 2],
    /// Bytes it takes, without and with tables.
    bytes: [usize; 2],
}

impl Deref for LaidOut {
    type Target = Unclocked;

    fn deref(&self) -> &Unclocked {
        &self.unclocked
    }
}

impl LaidOut {
    /// Lays a model out; `known` is what the same at another clock has of what does not follow it.
    ///
    /// # Errors
    /// Why it cannot be laid out.
    pub fn new(
        graph: &Graph,
        profile: &Profile,
        mesh: Mesh,
        formats: Formats,
        running: Running,
        settings: Settings,
        known: Option<Arc<Unclocked>>,
    ) -> Result<Self, Infeasible> {
        mesh.check(graph)?;
        let experts = match &known {
            Some(known) => known.experts.clone(),
            None => routed(graph, mesh, running, settings.routings)?,
        };
        let mut locked = lock(profile, running);
        let own = locked.as_ref().unwrap_or(profile);
        let lower = Lowering { graph, profile: own, mesh, formats, running, experts };
        let kinds = stage_kinds(graph, mesh.pp);
        let (prefill, first_blocks, has_first) = lower.phase(Phase::Prefill, &kinds);
        let (decode, _, has_then) = lower.phase(Phase::Decode, &kinds);
        let constants = constants(own, &lower, settings);
        let unclocked = known.unwrap_or_else(|| {
            Arc::new(Unclocked {
                activations: largest_activations(&first_blocks),
                kinds,
                weights: lower.weights(),
                caches: lower.caches(),
                experts: lower.experts(),
            })
        });
        if let Some(locked) = &mut locked {
            locked.forget_kernels();
        }
        let has = [has_first, has_then];
        let made = Self { mesh, prefill, decode, unclocked, constants, locked, has, bytes: [0; 2] };
        Ok(Self { bytes: [made.counted(false), made.counted(true)], ..made })
    }

    /// Bytes it takes; with what tables it will have, if it is used with them. Counted when it was made: caches ask at
    /// every use.
    pub fn bytes(&self, tables: bool) -> usize {
        self.bytes[usize::from(tables)]
    }

    fn counted(&self, tables: bool) -> usize {
        let kinds = self.kinds.len();
        let phases = [&self.prefill, &self.decode].map(|phase| phase.program.bytes(tables)).iter().sum::<usize>();
        let fixed = if tables { crate::batch::serve::fixed_bytes(&self.decode.program, kinds) } else { 0 };
        let locked = self.locked.as_ref().map_or(0, Profile::clock_bytes);
        size_of::<Self>() + self.unclocked.bytes() + phases + fixed + locked
    }

    /// What all clocks share.
    pub fn unclocked(&self) -> &Arc<Unclocked> {
        &self.unclocked
    }
}

/// The GPU locked to the clock that is asked for; none if none is, or if it cannot be.
fn lock(profile: &Profile, running: Running) -> Option<Profile> {
    (running.sm_clock_mhz > 0).then(|| profile.at_clock(f64::from(running.sm_clock_mhz))).flatten()
}

/// The kernels of a point, prefill's and decode's.
///
/// # Errors
/// Why it cannot be laid out.
pub fn blocks(
    graph: &Graph,
    profile: &Profile,
    mesh: Mesh,
    formats: Formats,
    running: Running,
    settings: Settings,
) -> Result<[Blocks; 2], Infeasible> {
    mesh.check(graph)?;
    let experts = routed(graph, mesh, running, settings.routings)?;
    let locked = lock(profile, running);
    let profile = locked.as_ref().unwrap_or(profile);
    let lower = Lowering { graph, profile, mesh, formats, running, experts };
    let kinds = stage_kinds(graph, mesh.pp);
    Ok([Phase::Prefill, Phase::Decode].map(|phase| lower.phase(phase, &kinds).1))
}

/// Constants of the whole step.
fn constants(profile: &Profile, lower: &Lowering, settings: Settings) -> StepConstants {
    StepConstants {
        host_s: profile.host.host_s,
        sequence_s: profile.host.sequence_s,
        static_w: profile.power.static_w,
        active_w: profile.power.active_w,
        communication_w: profile.power.communication_w,
        sequence_j: profile.power.sequence_j,
        tdp_w: profile.power.tdp_w,
        capacity_bytes: profile.memory.capacity_bytes,
        reserve_bytes: profile.memory.reserve_bytes,
        max_batched_tokens: settings.max_batched_tokens,
        cause_variance: profile.uncertainty.causes().map(|deviation| deviation * deviation),
        common_variance: lower.common_variance(),
        range: lower.range(),
    }
}
