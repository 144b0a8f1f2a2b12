//! The power limit of a stage, and caps below it.

use super::lanes::Lane;

/// Share of a stage's dynamic joules that is drawn if the GPU may not draw more than `tdp_w` on average: 1 below the limit.
///
/// Kernel times were measured at that limit, so they hold its slow-down already; what is too much is the joules.
#[inline(always)]
pub fn limited(time_s: f64, dynamic_j: f64, static_w: f64, tdp_w: f64) -> f64 {
    let most = time_s * (tdp_w - static_w);
    if dynamic_j > most { most / dynamic_j } else { 1.0 }
}

/// A lower clock, as a share of the present one, with what it does to joules and watts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lower {
    /// Clock over the present one.
    pub clock: f64,
    /// Squared voltage over the present one's.
    pub voltage: f64,
    /// Waiting power over the present one.
    pub waiting: f64,
}

/// A stage at the present clock.
#[derive(Clone, Debug)]
pub struct Stage<const L: usize> {
    /// Seconds.
    pub time: Lane<L>,
    /// Seconds of its FLOPs at the rate they reach.
    pub flop_s: Lane<L>,
    /// Joules of FLOPs, on-chip bytes and sampling.
    pub work_j: Lane<L>,
    /// Joules of running at all.
    pub active_j: Lane<L>,
    /// Joules that do not follow the clock.
    pub rest_j: Lane<L>,
}

/// A stage under a cap.
#[derive(Clone, Debug)]
pub struct Slowed<const L: usize> {
    /// Seconds.
    pub time: Lane<L>,
    /// Joules of compute.
    pub compute_j: Lane<L>,
    /// Waiting power over that at the present clock.
    pub waiting: Lane<L>,
}

/// A cap on the power of a GPU below its limit, met by lowering the SM clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Cap {
    watts: f64,
    clocks: Vec<Lower>,
}

impl Cap {
    /// A cap over clocks that fall.
    pub fn new(watts: f64, clocks: Vec<Lower>) -> Self {
        Self { watts, clocks }
    }

    /// The stage at the highest clock that meets the cap, waiting at `static_w` at the present one.
    ///
    /// `T(u) = T·(1 − a + a/u)` and `E(u) = w·(D_w + D_a·u·T(u)/T) + D`, a the share of the time that follows the clock.
    #[inline(always)]
    pub fn slow_down<const L: usize>(&self, stage: &Stage<L>, static_w: f64) -> Slowed<L> {
        let Stage { time, flop_s, work_j, active_j, rest_j } = stage;
        let (mut share, mut per_second) = ([0.0; L], [0.0; L]);
        let (mut clock, mut voltage, mut waiting) = ([1.0; L], [1.0; L], [1.0; L]);
        let (mut above, mut searching) = ([0.0; L], [0.0; L]);
        let mut any = false;
        for i in 0..L {
            share[i] = if flop_s[i] < time[i] { flop_s[i] / time[i] } else { 1.0 };
            per_second[i] = 1.0 / time[i];
            above[i] = (work_j[i] + active_j[i] + rest_j[i]) * per_second[i] + static_w;
            searching[i] = if above[i] <= self.watts { 0.0 } else { 1.0 };
            any |= searching[i] > 0.0;
        }
        let mut out = Slowed { time: *time, compute_j: [0.0; L], waiting };
        for lower in self.clocks.iter().filter(|_| any) {
            let slower = 1.0 / lower.clock;
            for i in 0..L {
                let stretch = 1.0 - share[i] + share[i] * slower;
                let compute = lower.voltage * (work_j[i] + active_j[i] * lower.clock * stretch);
                let here = (compute + rest_j[i]) * per_second[i] / stretch + static_w * lower.waiting;
                let meets = here <= self.watts;
                let part = if meets { (self.watts - here) / (above[i] - here) } else { 0.0 };
                let part = if searching[i] > 0.0 { part } else { 1.0 };
                clock[i] = lower.clock + (clock[i] - lower.clock) * part;
                voltage[i] = lower.voltage + (voltage[i] - lower.voltage) * part;
                waiting[i] = lower.waiting + (waiting[i] - lower.waiting) * part;
                above[i] = here;
                searching[i] = if meets { 0.0 } else { searching[i] };
            }
        }
        for i in 0..L {
            let stretch = 1.0 - share[i] + share[i] / clock[i];
            let compute = voltage[i] * (work_j[i] + active_j[i] * clock[i] * stretch);
            let least = (compute + rest_j[i]) / (self.watts - static_w * waiting[i]);
            let slowed = time[i] * stretch;
            out.time[i] = if slowed > least { slowed } else { least };
            out.compute_j[i] = compute;
        }
        out.waiting = waiting;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Cap, Lower, Stage, limited};

    #[test]
    fn the_limit_is_met_exactly() {
        let drawn = limited(1.0, 900.0, 100.0, 700.0);
        assert!((900.0 * drawn + 100.0 - 700.0).abs() < 1e-9);
        assert_eq!(limited(2.0, 900.0, 100.0, 700.0), 1.0);
    }

    #[test]
    fn a_cap_is_met_and_saves_joules_of_compute() {
        let lower = |clock, voltage, waiting| Lower { clock, voltage, waiting };
        let cap = Cap::new(300.0, vec![lower(0.9, 0.85, 0.9), lower(0.7, 0.6, 0.8), lower(0.5, 0.6, 0.78)]);
        let stage = Stage {
            time: [1.0; 5],
            flop_s: [0.9, 0.9, 2.0, 0.1, 0.0],
            work_j: [80.0, 230.0, 480.0, 30.0, 240.0],
            active_j: [20.0; 5],
            rest_j: [50.0, 50.0, 10.0, 900.0, 0.0],
        };
        let slowed = cap.slow_down(&stage, 80.0);
        assert_eq!((slowed.time[0], slowed.compute_j[0], slowed.waiting[0]), (1.0, 100.0, 1.0));
        for i in 1..5 {
            let power = (slowed.compute_j[i] + stage.rest_j[i]) / slowed.time[i] + 80.0 * slowed.waiting[i];
            assert!(power <= 300.0 + 1e-9, "{power}");
            assert!(
                power > 285.0 && slowed.time[i] >= 1.0 && slowed.compute_j[i] < stage.work_j[i] + 20.0,
                "{power} {i}"
            );
        }
    }
}
