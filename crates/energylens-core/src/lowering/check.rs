//! Whether a mapping can run as its options say.

use crate::hardware::profile::{Power, Profile};
use crate::input::run_options::Running;
use crate::lowering::features::Features;
use crate::lowering::mesh::{Infeasible, Mesh, Reason};

fn fault(reason: Reason, message: impl Into<String>, hint: impl Into<String>) -> Result<(), Infeasible> {
    Err(Infeasible { reason, message: message.into(), hint: hint.into(), rank: None })
}

/// Checks options against what the phases of a layout have to apply them to; `locked` is the GPU at the requested clock.
///
/// # Errors
/// The first option that does not apply, with what would.
pub(super) fn options(
    running: &Running,
    profile: &Profile,
    locked: Option<&Profile>,
    mesh: Mesh,
    features: Features,
) -> Result<(), Infeasible> {
    norms(running, mesh, features)?;
    overlap(running, profile.compute.sms, mesh, features)?;
    clock(running, profile, locked)?;
    cap(running, profile, &locked.unwrap_or(profile).power)
}

/// Sequence parallelism and fused norms both change the all-reduces over tp.
fn norms(running: &Running, mesh: Mesh, features: Features) -> Result<(), Infeasible> {
    if running.sequence_parallel && !features.reduced {
        let message = format!("sequence parallelism, but nothing is reduced over tp {}", mesh.tp);
        return fault(Reason::Shard, message, "use tp 2 or more");
    }
    if running.fused_norm && (running.sequence_parallel || !features.fused) {
        let message = "fused norm, but no norm directly follows an all_reduce";
        return fault(Reason::Shard, message, "use it with tp 2 or more and without sequence parallelism");
    }
    Ok(())
}

fn overlap(running: &Running, sms: u32, mesh: Mesh, features: Features) -> Result<(), Infeasible> {
    if !running.agrees(sms) {
        let (stages, place) = (running.overlap_stages, running.overlap_where.name());
        let (message, hint) = match stages {
            0 => (
                format!("overlap in {place} on {} SMs, but in no stages", running.overlap_sms),
                "say in how many stages and on how many SMs as well".to_owned(),
            ),
            _ => (
                format!("overlap in {stages} stages with {} communication SMs in {place}", running.overlap_sms),
                format!("use 2 or more stages with 1 to {} SMs, or 1 stage with none, in prefill", sms - 1),
            ),
        };
        return fault(Reason::Overlap, message, hint);
    }
    if running.overlaps() && mesh.cp > 1 && features.turns {
        let message = "micro-batches of experts do not take turns with context parallelism";
        return fault(Reason::Overlap, message, "use cp 1, or 1 stage and 0 SMs");
    }
    if running.overlaps() && !features.overlapped {
        return fault(Reason::Overlap, "there is nothing that overlap could hide", "use 1 stage and 0 SMs");
    }
    Ok(())
}

fn clock(running: &Running, profile: &Profile, locked: Option<&Profile>) -> Result<(), Infeasible> {
    if running.sm_clock_mhz > 0 && locked.is_none() {
        let message = format!("an SM clock of {} MHz", running.sm_clock_mhz);
        let hint = match profile.clock.range() {
            Some((lowest, highest)) => format!("{} can be locked to {lowest:.0} to {highest:.0} MHz", profile.name),
            None => format!("the profile of {} has no table of clocks", profile.name),
        };
        return fault(Reason::Clock, message, hint);
    }
    Ok(())
}

/// A cap must leave room above the waiting power, which no clock lowers, and cannot raise the limit of the board.
fn cap(running: &Running, profile: &Profile, power: &Power) -> Result<(), Infeasible> {
    let cap_w = f64::from(running.power_cap_w);
    if cap_w > 0.0 && !(power.static_w < cap_w && cap_w <= power.tdp_w) {
        return fault(Reason::Power, format!("a power cap of {cap_w} W"), caps(running, profile, power));
    }
    Ok(())
}

/// Which caps a GPU accepts, and at which clock: the waiting power falls with the clock.
fn caps(running: &Running, profile: &Profile, power: &Power) -> String {
    let (lowest, highest) = (power.static_w.floor() + 1.0, power.tdp_w.floor());
    match (running.sm_clock_mhz, profile.clock.range()) {
        _ if lowest > highest => format!(
            "leave it out: there is none between the {:.0} W of a GPU that waits and the {highest:.0} W of its board",
            power.static_w
        ),
        (0, Some((_, mhz))) => format!(
            "use {lowest:.0} to {highest:.0} W: {lowest:.0} W is the lowest cap at its highest clock, {mhz:.0} MHz, \
             and lower ones go with a lower clock"
        ),
        (mhz, Some(_)) => format!("use {lowest:.0} to {highest:.0} W: {lowest:.0} W is the lowest cap at {mhz} MHz"),
        _ => format!("use {lowest:.0} to {highest:.0} W"),
    }
}
