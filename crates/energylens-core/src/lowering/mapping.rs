//! A mapping: a model on a GPU type over a mesh, in given formats and with given run options, every constant resolved.

use std::ops::Deref;
use std::sync::Arc;

use crate::cost::power::{Cap, Governor};
use crate::hardware::clock::ClockRatio;
use crate::hardware::profile::Profile;
use crate::input::run_options::Running;
use crate::lowering::check;
use crate::lowering::mesh::Infeasible;

pub use super::layouts::{LaidOut, Unclocked, blocks};
pub use super::parts::{Blocks, CacheShape, Formats, MappedKernel, MappedPhase, Settings, StageKind, StepConstants};
pub use super::stages::stage_kinds;

/// Everything about a configuration that does not depend on batch and lengths.
///
/// Mappings that differ in their power caps alone share all else: their layout.
#[derive(Clone, Debug)]
pub struct Mapping {
    laid_out: Arc<LaidOut>,
    /// Lowers the SM clock to keep a lock or a cap; none without either, or if the GPU's clocks are not known.
    pub governor: Option<Governor>,
    /// Watts that no stage may draw, of a cap on a GPU whose clocks are not known: there is no telling how slow it would be.
    pub most_w: Option<f64>,
}

impl Deref for Mapping {
    type Target = LaidOut;

    fn deref(&self) -> &LaidOut {
        &self.laid_out
    }
}

impl Mapping {
    /// A layout with its power cap.
    ///
    /// # Errors
    /// Run options that do not apply.
    pub fn new(laid_out: Arc<LaidOut>, profile: &Profile, running: Running) -> Result<Self, Infeasible> {
        let locked = laid_out.locked.as_ref();
        check::options(&running, profile, locked, laid_out.mesh, laid_out.features)?;
        let profile = locked.unwrap_or(profile);
        let (governor, most_w) = (governor(profile, running), most_w(profile, running));
        Ok(Self { laid_out, governor, most_w })
    }

    /// The same layout under another governor.
    #[must_use]
    pub fn governed(&self, governor: Governor) -> Self {
        Self { laid_out: Arc::clone(&self.laid_out), governor: Some(governor), most_w: self.most_w }
    }

    /// Bytes of memory it takes with its layout; with `tables`, those of the tables that long runs of points fill.
    pub fn bytes(&self, tables: bool) -> usize {
        let clocks = |clocks: &Vec<ClockRatio>| clocks.capacity() * size_of::<ClockRatio>();
        let of =
            |governor: &Governor| clocks(&governor.clocks) + governor.cap.as_ref().map_or(0, |cap| clocks(&cap.clocks));
        size_of::<Self>() + self.governor.as_ref().map_or(0, of) + self.laid_out.bytes(tables)
    }
}

/// Watts that no stage may draw, where a cap is requested and there are no clocks to lower.
fn most_w(profile: &Profile, running: Running) -> Option<f64> {
    (running.power_cap_w > 0 && profile.clock.range().is_none()).then(|| f64::from(running.power_cap_w))
}

/// What lowers the SM clock of a GPU (section 11 of the physics page), whose profile is that at the locked clock if it is locked.
fn governor(profile: &Profile, running: Running) -> Option<Governor> {
    let (clocks, power) = (&profile.clock, &profile.power);
    let locked = (running.sm_clock_mhz > 0).then(|| f64::from(running.sm_clock_mhz));
    let mhz = locked.unwrap_or(clocks.max_mhz);
    let watts = Some(f64::from(running.power_cap_w)).filter(|watts| *watts > 0.0);
    (running.governed() && clocks.range().is_some()).then(|| Governor {
        lock: locked.map_or(ClockRatio::SAME, |mhz| clocks.lower(mhz, clocks.max_mhz)),
        clocks: clocks.below(clocks.max_mhz),
        // The limit of the board is kept without a cap too.
        cap: watts.filter(|watts| *watts < power.tdp_w).map(|watts| Cap { watts, clocks: clocks.below(mhz) }),
        static_w: power.static_w,
        active_w: power.active_w,
        tdp_w: power.tdp_w,
    })
}
