//! Run options without those that change nothing on a GPU.

use crate::hardware::profile::Profile;
use crate::input::run_options::Running;

/// Whether the SM clock is locked below the highest one.
fn lowered(running: Running, profile: &Profile) -> bool {
    running.sm_clock_mhz > 0 && f64::from(running.sm_clock_mhz) < profile.clock.max_mhz
}

/// The options without a lock at the highest clock, a cap at the limit of the board, and any cap where no clocks are known
/// (points run as they would without it, or not at all).
pub(super) fn effective(running: Running, profile: &Profile) -> Running {
    let capped = profile.clock.range().is_some() && f64::from(running.power_cap_w) < profile.power.tdp_w;
    Running {
        sm_clock_mhz: if lowered(running, profile) { running.sm_clock_mhz } else { 0 },
        power_cap_w: if capped { running.power_cap_w } else { 0 },
        ..running
    }
}

/// The options that the layout of a mapping depends on. Layouts under a cap hold the seconds that follow the clock, and
/// whether the results are extrapolated; so it matters whether there is a cap, and whether it is below the limit of the
/// board, but not its watts.
pub fn of_layout(running: Running, profile: &Profile) -> Running {
    let power_cap_w = match running.power_cap_w {
        0 => 0,
        _ if lowered(running, profile) => 0,
        watts if f64::from(watts) < profile.power.tdp_w => 1,
        _ => u16::MAX,
    };
    Running { power_cap_w, ..running }
}
