//! The power limit of a stage.

/// Share of a stage's dynamic joules that is drawn if the GPU may not draw more than `tdp_w` on average: 1 below the limit.
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
    watts: f64,
    /// Lower clocks, as shares of the present one, each with its squared voltage over the present one's.
    clocks: Vec<(f64, f64)>,
}

impl Cap {
    /// A cap over clocks that fall.
    pub fn new(watts: f64, clocks: Vec<(f64, f64)>) -> Self {
        Self { watts, clocks }
    }

    /// Seconds added to a stage, and the factor of its joules of compute: at the highest clock that meets the cap.
    ///
    /// `T(u) = T·(1 − a + a/u)` and `E(u) = D_c·w(u) + D`, a the share of the time that follows the clock.
    pub fn slow_down(&self, time: f64, flop_s: f64, compute_j: f64, rest_j: f64, static_w: f64) -> (f64, f64) {
        if (compute_j + rest_j) / time + static_w <= self.watts {
            return (0.0, 1.0);
        }
        let share = if flop_s < time { flop_s / time } else { 1.0 };
        let seconds = |u: f64| time * (1.0 - share + share / u);
        let power = |u: f64, w: f64| (compute_j * w + rest_j) / seconds(u) + static_w;
        let (mut u, mut w) = (1.0, 1.0);
        for &(lower, volts) in &self.clocks {
            let (above, here) = (power(u, w), power(lower, volts));
            if here <= self.watts {
                let part = (self.watts - here) / (above - here);
                (u, w) = (lower + (u - lower) * part, volts + (w - volts) * part);
                break;
            }
            (u, w) = (lower, volts);
        }
        let stretched = (compute_j * w + rest_j) / (self.watts - static_w);
        let slowed = seconds(u);
        let longest = if slowed > stretched { slowed } else { stretched };
        (longest - time, w)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cap, limited};

    #[test]
    fn the_limit_is_met_exactly() {
        let drawn = limited(1.0, 900.0, 100.0, 700.0);
        assert!((900.0 * drawn + 100.0 - 700.0).abs() < 1e-9);
        assert_eq!(limited(2.0, 900.0, 100.0, 700.0), 1.0);
    }

    #[test]
    fn a_cap_is_met_and_saves_joules_of_compute() {
        let cap = Cap::new(300.0, vec![(0.9, 0.85), (0.7, 0.6), (0.5, 0.6)]);
        assert_eq!(cap.slow_down(1.0, 0.9, 100.0, 50.0, 80.0), (0.0, 1.0));
        for (compute, rest, flop_s) in [(250.0, 50.0, 0.9), (500.0, 10.0, 2.0), (50.0, 900.0, 0.1), (260.0, 0.0, 0.0)] {
            let (more, w) = cap.slow_down(1.0, flop_s, compute, rest, 80.0);
            let power = (compute * w + rest) / (1.0 + more) + 80.0;
            assert!(power <= 300.0 + 1e-9, "{power}");
            assert!(power > 290.0 && more >= 0.0 && (0.6..1.0).contains(&w), "{power} {more} {w}");
        }
    }
}
