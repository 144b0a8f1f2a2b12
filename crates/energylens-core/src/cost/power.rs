//! The power limit of a stage: by itself (Eq. 8.4), under a locked clock and under a cap (Eq. 11.6, 11.7, 11.8, 11.9).

use crate::hardware::clock::ClockRatio;
use crate::numeric::lanes::Lane;

/// Share of a stage's dynamic joules that is drawn if the GPU may not draw more than `tdp_w` on average (Eq. 8.4); 1 below it.
///
/// Kernel times were measured at that limit, so they hold its slow-down already; what is too much is the joules.
#[inline(always)]
pub fn limited(time_s: f64, dynamic_j: f64, static_w: f64, tdp_w: f64) -> f64 {
    let most = time_s * (tdp_w - static_w);
    if dynamic_j > most { most / dynamic_j } else { 1.0 }
}

/// A cap on the power of a GPU below its limit, met by lowering the SM clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Cap {
    /// Watts that a stage may draw on average.
    pub watts: f64,
    /// Clocks of the tables below the point's, falling, over the point's.
    pub clocks: Vec<ClockRatio>,
}

/// What holds the SM clock of a stage down: a lock, a cap, and the limit of the board.
#[derive(Clone, Debug, PartialEq)]
pub struct Governor {
    /// The point's clock, over the highest.
    pub lock: ClockRatio,
    /// Clocks of the tables below the highest, falling, over the highest.
    pub clocks: Vec<ClockRatio>,
    /// Cap below the limit of the board, if the point has one.
    pub cap: Option<Cap>,
    /// Watts of a GPU that waits, at the point's clock.
    pub static_w: f64,
    /// Watts more while kernels run, at the point's clock.
    pub active_w: f64,
    /// Limit of the board in watts.
    pub tdp_w: f64,
}

/// A stage of one pass at the point's clock, before its limits: `Θ⁺` of Eq. 8.2 with its joules (Eq. 8.3).
#[derive(Clone, Debug)]
pub struct Stage<const L: usize> {
    /// All its seconds.
    pub time: Lane<L>,
    /// Those of kernels.
    pub kernel_s: Lane<L>,
    /// Those that get longer as the clock falls (Eq. 11.5).
    pub clocked_s: Lane<L>,
    /// Joules of FLOPs, on-chip bytes and sampling.
    pub work_j: Lane<L>,
    /// All other dynamic joules, which do not change with the clock, without those of active kernels.
    pub rest_j: Lane<L>,
}

/// A stage of one pass as the GPU runs it within its limits.
#[derive(Clone, Debug)]
pub struct Governed<const L: usize> {
    /// All its seconds.
    pub time: Lane<L>,
    /// Joules of compute.
    pub compute_j: Lane<L>,
    /// Factor of all dynamic joules at the limit of the board (Eq. 8.4).
    pub drawn: Lane<L>,
    /// Waiting watts over those at the point's clock.
    pub waiting: Lane<L>,
}

/// The clock that each lane settles at, with its squared voltage and waiting watts, as ratios.
struct Settled<const L: usize> {
    clock: Lane<L>,
    voltage: Lane<L>,
    waiting: Lane<L>,
}

/// The highest of falling clocks at which no more than `watts` are drawn, interpolated by watts (Eq. 11.10).
///
/// It is 1 where that holds anyway and the lowest where it never does. `drawn` gives the watts of a lane at a clock.
#[inline(always)]
fn highest<const L: usize>(watts: f64, clocks: &[ClockRatio], drawn: impl Fn(usize, ClockRatio) -> f64) -> Settled<L> {
    let (mut clock, mut voltage, mut waiting) = ([1.0; L], [1.0; L], [1.0; L]);
    let (mut above, mut searching) = ([0.0; L], [0.0; L]);
    let mut any = false;
    for i in 0..L {
        above[i] = drawn(i, ClockRatio::SAME);
        searching[i] = if above[i] <= watts { 0.0 } else { 1.0 };
        any |= searching[i] > 0.0;
    }
    for lower in clocks.iter().filter(|_| any) {
        for i in 0..L {
            let here = drawn(i, *lower);
            let meets = here <= watts;
            let part = if meets { (watts - here) / (above[i] - here) } else { 0.0 };
            let part = if searching[i] > 0.0 { part } else { 1.0 };
            clock[i] = lower.clock + (clock[i] - lower.clock) * part;
            voltage[i] = lower.voltage + (voltage[i] - lower.voltage) * part;
            waiting[i] = lower.waiting + (waiting[i] - lower.waiting) * part;
            above[i] = here;
            searching[i] = if meets { 0.0 } else { searching[i] };
        }
    }
    Settled { clock, voltage, waiting }
}

impl Governor {
    /// The clock, over the highest, that the limit of the board enforced when kernels were measured (u_e of Eq. 11.6).
    #[inline(always)]
    fn enforced<const L: usize>(&self, stage: &Stage<L>) -> Lane<L> {
        let ClockRatio { clock: u, voltage, waiting } = self.lock;
        let (mut per_second, mut work, mut active) = ([0.0; L], [0.0; L], [0.0; L]);
        for i in 0..L {
            let sooner = stage.clocked_s[i] * (1.0 - u);
            per_second[i] = 1.0 / (stage.time[i] - sooner);
            work[i] = stage.work_j[i] / voltage;
            active[i] = self.active_w / (voltage * u) * (stage.kernel_s[i] - sooner);
        }
        let static_w = self.static_w / waiting;
        let drawn = |i: usize, at: ClockRatio| {
            (at.voltage * (work[i] + active[i] * at.clock) + stage.rest_j[i]) * per_second[i] + static_w * at.waiting
        };
        highest(self.tdp_w, &self.clocks, drawn).clock
    }

    /// The stage under its lock, the limit of the board and its cap (Eq. 11.7, 11.8, 11.9).
    #[inline(always)]
    pub fn govern<const L: usize>(&self, stage: &Stage<L>) -> Governed<L> {
        let enforced = self.enforced(stage);
        let (mut time, mut active_j, mut share, mut from) = ([0.0; L], [0.0; L], [0.0; L], [0.0; L]);
        for i in 0..L {
            let u = self.lock.clock;
            let held = if enforced[i] > u { enforced[i] } else { u }; // u_h of Eq. 11.7
            let sooner = stage.clocked_s[i] * (1.0 - held);
            time[i] = stage.time[i] - sooner;
            active_j[i] = self.active_w * (stage.kernel_s[i] - sooner);
            share[i] = stage.clocked_s[i] * held / time[i]; // q of Eq. 11.8
            from[i] = if enforced[i] < u { enforced[i] / u } else { 1.0 }; // u_g: the cap slows below it only
        }
        let mut out = Governed { time, compute_j: [0.0; L], drawn: [1.0; L], waiting: [1.0; L] };
        let Some(cap) = &self.cap else {
            for i in 0..L {
                out.compute_j[i] = stage.work_j[i] + active_j[i];
                out.drawn[i] = limited(time[i], out.compute_j[i] + stage.rest_j[i], self.static_w, self.tdp_w);
            }
            return out;
        };
        // Θ(u)/Θ', J(u)/Θ(u) and the cap of Eq. 11.8.
        let longer = |i: usize, clock: f64| {
            let slowdown = if clock < from[i] { from[i] / clock } else { 1.0 };
            1.0 - share[i] + share[i] * slowdown
        };
        let drawn = |i: usize, at: ClockRatio| {
            let longer = longer(i, at.clock);
            let compute = at.voltage * (stage.work_j[i] + active_j[i] * at.clock * longer);
            (compute + stage.rest_j[i]) / (time[i] * longer) + self.static_w * at.waiting
        };
        let Settled { clock, voltage, waiting } = highest(cap.watts, &cap.clocks, drawn);
        for i in 0..L {
            let longer = longer(i, clock[i]);
            let compute = voltage[i] * (stage.work_j[i] + active_j[i] * clock[i] * longer);
            let least = (compute + stage.rest_j[i]) / (cap.watts - self.static_w * waiting[i]);
            let slowed = time[i] * longer;
            out.time[i] = if slowed > least { slowed } else { least };
            out.compute_j[i] = compute;
        }
        out.waiting = waiting;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Cap, ClockRatio, Governor, Stage, limited};

    const CLOCKS: [ClockRatio; 3] = [lower(0.9, 0.85, 0.9), lower(0.7, 0.6, 0.8), lower(0.5, 0.6, 0.78)];

    const fn lower(clock: f64, voltage: f64, waiting: f64) -> ClockRatio {
        ClockRatio { clock, voltage, waiting }
    }

    fn governor(lock: ClockRatio, cap: Option<f64>) -> Governor {
        let clocks = CLOCKS.to_vec();
        let cap = cap.map(|watts| Cap { watts, clocks: clocks.clone() });
        let (static_w, active_w) = (80.0 * lock.waiting, 20.0 * lock.voltage * lock.clock);
        Governor { lock, clocks, cap, static_w, active_w, tdp_w: 400.0 }
    }

    #[test]
    fn the_limit_is_met_exactly() {
        let drawn = limited(1.0, 900.0, 100.0, 700.0);
        assert!((900.0 * drawn + 100.0 - 700.0).abs() < 1e-9);
        assert_eq!(limited(2.0, 900.0, 100.0, 700.0), 1.0);
    }

    #[test]
    fn a_cap_is_met_and_saves_joules_of_compute() {
        let stage = Stage {
            time: [1.0; 5],
            kernel_s: [1.0; 5],
            clocked_s: [0.9, 0.9, 1.0, 0.1, 0.0],
            work_j: [80.0, 230.0, 480.0, 30.0, 240.0],
            rest_j: [50.0, 50.0, 10.0, 900.0, 0.0],
        };
        let slowed = governor(ClockRatio::SAME, Some(300.0)).govern(&stage);
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

    #[test]
    fn a_lock_above_the_clock_that_the_limit_enforces_changes_nothing() {
        // At the highest clock 1 s, all of it following the clock, and 80 + 20 + 380 W where 400 are allowed.
        let at = |lock: ClockRatio| {
            let time = 1.0 / lock.clock;
            let work_j = [380.0 * lock.voltage];
            let stage = Stage { time: [time], kernel_s: [time], clocked_s: [time], work_j, rest_j: [0.0] };
            let governed = governor(lock, None).govern(&stage);
            let joules = governed.drawn[0] * governed.compute_j[0] + 80.0 * lock.waiting * governed.time[0];
            (governed.time[0], joules)
        };
        assert_eq!(at(ClockRatio::SAME), (1.0, 400.0));
        let (time, joules) = at(lower(0.95, 0.925, 0.95));
        assert!((time - 1.0).abs() < 1e-12 && (joules - 400.0).abs() < 1e-9);
        let (slowdown, fewer) = at(lower(0.7, 0.6, 0.8));
        assert!(slowdown > 1.0 && slowdown < 1.0 / 0.7 && fewer < 400.0, "{slowdown} {fewer}");
    }
}
