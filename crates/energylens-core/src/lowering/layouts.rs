//! The layout of a mapping: everything that mappings of different power caps share, and the part that all clocks share.

use std::ops::Deref;
use std::sync::Arc;

use crate::cost::env::Experts;
use crate::graph::Graph;
use crate::hardware::profile::Profile;
use crate::input::run_options::Running;
use crate::lowering::context::Lowering;
use crate::lowering::experts::routed;
use crate::lowering::features::Features;
use crate::lowering::memory::{Activations, largest_activations};
use crate::lowering::mesh::{Infeasible, Mesh};
use crate::lowering::parts::{Blocks, CacheShape, Formats, MappedPhase, Settings, StageKind, StepConstants};
use crate::lowering::stages::stage_kinds;
use crate::phase::Phase;

/// The part of a layout that does not follow the SM clock.
#[derive(Clone, Debug)]
pub struct Unclocked {
    /// Pipeline stages by content.
    pub kinds: Vec<StageKind>,
    /// Bytes of weights of one repetition of each block; tied weights count in one block only.
    pub weights: Vec<f64>,
    /// Cache of one repetition of each block.
    pub caches: Vec<CacheShape>,
    /// Activations of the prefill kernels that may need the most.
    pub activations: Vec<Activations>,
    /// Routing.
    pub experts: Option<Experts>,
}

impl Unclocked {
    /// Bytes of memory it takes, about.
    pub fn bytes(&self) -> usize {
        let blocks = self.weights.len() * (size_of::<f64>() * (1 + self.kinds.len()) + size_of::<CacheShape>());
        let largest = self.activations.iter().map(|one| size_of_val(one) + one.1.bytes()).sum::<usize>();
        size_of::<Self>() + blocks + largest
    }
}

/// Everything that is constant over batch and lengths, but for how a power cap lowers the clock.
#[derive(Clone, Debug)]
pub struct LaidOut {
    /// Mesh.
    pub mesh: Mesh,
    /// Prefill.
    pub prefill: MappedPhase,
    /// Decode.
    pub decode: MappedPhase,
    /// What all clocks share.
    unclocked: Arc<Unclocked>,
    /// Step constants.
    pub constants: StepConstants,
    /// The GPU at the locked clock, which a cap starts from; none if it is not locked.
    pub(super) locked: Option<Profile>,
    /// What run options apply to, in either phase.
    pub(super) features: Features,
    /// Bytes of memory it takes, without and with tables.
    bytes: [usize; 2],
}

impl Deref for LaidOut {
    type Target = Unclocked;

    fn deref(&self) -> &Unclocked {
        &self.unclocked
    }
}

impl LaidOut {
    /// Lays a model out; `known` is the clock-independent part of the same layout at another clock.
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
        let at_clock = locked.as_ref().unwrap_or(profile);
        let lower = Lowering { graph, profile: at_clock, mesh, formats, running, experts };
        let kinds = stage_kinds(graph, mesh.pp);
        let (prefill, first_blocks, prefill_features) = lower.phase(Phase::Prefill, &kinds);
        let (decode, _, decode_features) = lower.phase(Phase::Decode, &kinds);
        let constants = constants(at_clock, &lower, settings);
        let unclocked = known.unwrap_or_else(|| {
            Arc::new(Unclocked {
                activations: largest_activations(&first_blocks),
                kinds,
                weights: lower.weights(),
                caches: lower.caches(),
                experts: lower.experts.clone(),
            })
        });
        if let Some(locked) = &mut locked {
            locked.forget_kernels();
        }
        let features = prefill_features.or(decode_features);
        let made = Self { mesh, prefill, decode, unclocked, constants, locked, features, bytes: [0; 2] };
        Ok(Self { bytes: [made.counted(false), made.counted(true)], ..made })
    }

    /// Bytes of memory it takes; with `tables`, those of the tables that long runs of points fill. They were counted when it
    /// was made, because caches need them at every use.
    pub fn bytes(&self, tables: bool) -> usize {
        self.bytes[usize::from(tables)]
    }

    fn counted(&self, tables: bool) -> usize {
        let kinds = self.kinds.len();
        let phases = [&self.prefill, &self.decode].map(|phase| phase.program.bytes(tables)).iter().sum::<usize>();
        let fixed = if tables { self.decode.table_values(kinds) * size_of::<f64>() } else { 0 };
        let locked = self.locked.as_ref().map_or(0, Profile::clock_bytes);
        size_of::<Self>() + self.unclocked.bytes() + phases + fixed + locked
    }

    /// What all clocks share.
    pub fn unclocked(&self) -> &Arc<Unclocked> {
        &self.unclocked
    }
}

/// The GPU locked to the clock that the point requests; none if it requests none, or if the GPU cannot be locked to it.
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
