//! The power limit of a stage.

/// Share of a stage's dynamic joules that is drawn if the GPU may not draw more than `tdp_w` on average: 1 below the limit.
///
/// Kernel times were measured at that limit, so they hold its slow-down already; what is too much is the joules.
#[inline(always)]
pub fn limited(time_s: f64, dynamic_j: f64, static_w: f64, tdp_w: f64) -> f64 {
    let most = time_s * (tdp_w - static_w);
    if dynamic_j > most { most / dynamic_j } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::limited;

    #[test]
    fn the_limit_is_met_exactly() {
        let drawn = limited(1.0, 900.0, 100.0, 700.0);
        assert!((900.0 * drawn + 100.0 - 700.0).abs() < 1e-9);
        assert_eq!(limited(2.0, 900.0, 100.0, 700.0), 1.0);
    }
}
