//! Exponentials and logarithms with the same bits on every machine.

/// `1/k!` for k from 14 down to 0.
const SERIES: [f64; 15] = {
    let mut series = [1.0; 15];
    let mut k = 1;
    while k < 15 {
        series[14 - k] = series[15 - k] / k as f64;
        k += 1;
    }
    series
};

/// `e^x` for x ≤ 0: the same bits on every machine, unlike a library's, and vectorisable.
#[inline(always)]
pub fn exp_neg(x: f64) -> f64 {
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN2_HI: f64 = 6.931_471_803_691_238e-1;
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    const BIG: f64 = 6_755_399_441_055_744.0;
    let x = if x > -700.0 { x } else { -700.0 };
    let n = (x * LOG2_E + BIG) - BIG;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = 0.0;
    for coefficient in SERIES {
        p = p * r + coefficient;
    }
    let scale = f64::from_bits(((n as i64).wrapping_add(1023) as u64) << 52);
    p * scale
}

/// `ln x` for 0 < x < 1: the same bits on every machine, unlike a library's; −∞ for what is not above 0.
pub fn ln(x: f64) -> f64 {
    if x <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let (mut x, mut halvings) = (x, 0.0);
    while x < 0.75 {
        x *= 2.0;
        halvings += 1.0;
    }
    let z = (x - 1.0) / (x + 1.0);
    let mut series = 0.0;
    for k in (0..14).rev() {
        series = series * (z * z) + 1.0 / f64::from(2 * k + 1);
    }
    2.0 * z * series - halvings * std::f64::consts::LN_2
}

/// `x^power` for x > 0: the same bits on every machine.
pub fn power(x: f64, power: f64) -> f64 {
    if x == 1.0 || power == 0.0 {
        1.0
    } else if x < 1.0 {
        exp_neg(power * ln(x))
    } else {
        1.0 / exp_neg(power * ln(1.0 / x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_matches_the_library() {
        for i in 0..7000 {
            let x = -f64::from(i) * 0.1;
            assert!((exp_neg(x) / x.exp() - 1.0).abs() < 1e-14, "{x}");
        }
    }

    #[test]
    fn ln_matches_the_library() {
        for i in 1..1000 {
            let x = f64::from(i) / 1000.0;
            assert!((ln(x) - x.ln()).abs() < 1e-14 * (1.0 + x.ln().abs()), "{x}");
        }
    }
}
