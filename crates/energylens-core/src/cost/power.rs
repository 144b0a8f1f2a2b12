//! The power limit of a stage.

/// Time of a stage that may not draw more than `tdp_w` on average: `t`, or what its joules take at the limit.
#[inline(always)]
pub fn capped(time_s: f64, dynamic_j: f64, static_w: f64, tdp_w: f64) -> f64 {
    let at_limit = dynamic_j / (tdp_w - static_w);
    if at_limit > time_s { at_limit } else { time_s }
}

#[cfg(test)]
mod tests {
    use super::capped;

    #[test]
    fn cap_meets_the_limit_exactly() {
        let t = capped(1.0, 900.0, 100.0, 700.0);
        assert!((900.0 / t + 100.0 - 700.0).abs() < 1e-9);
        assert_eq!(capped(2.0, 900.0, 100.0, 700.0), 2.0);
    }
}
