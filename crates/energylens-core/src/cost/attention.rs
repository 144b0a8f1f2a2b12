//! Fused attention: masks, and how full the last wave is.

use super::lanes::{Basis, Lane, ceiling};
use crate::einsum::shape::Poly;
use crate::plan::MaskSpec;

/// Rows of queries one thread block takes.
const QUERY_ROWS: f64 = 128.0;

/// The matrix work of an attention kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Seconds of the FLOPs on the whole GPU at the reached rate, with the visible pairs as `s·t`.
    pub seconds: Poly,
    /// Independent query rows besides those along s.
    pub heads: Poly,
    /// Whether waves are counted (prompts only).
    pub waves: bool,
}

impl Attention {
    /// Adds its compute time to `time`.
    #[inline(always)]
    pub fn add<const L: usize>(&self, basis: &Basis<L>, sms: f64, time: &mut Lane<L>) {
        let seconds = basis.value(&self.seconds);
        if !self.waves {
            for i in 0..L {
                time[i] += seconds[i];
            }
            return;
        }
        let heads = basis.value(&self.heads);
        let s = &basis.0[2];
        for i in 0..L {
            let waves = heads[i] * ceiling(s[i] * (1.0 / QUERY_ROWS)) / sms;
            time[i] += seconds[i] * (ceiling(waves) / waves);
        }
    }
}

/// Mean number of tokens a new one sees, over `s` new tokens ending at `t`.
#[inline(always)]
pub fn visible(mask: Option<MaskSpec>, s: f64, t: f64) -> f64 {
    let Some(mask) = mask else { return t };
    let causal = t - (s - 1.0) * 0.5;
    let Some(window) = mask.window else { return causal };
    let w = window as f64;
    let cached = t - s;
    if t <= w {
        causal
    } else if cached + 1.0 >= w {
        w
    } else {
        let rising = w - cached;
        (rising * cached + rising * (rising + 1.0) * 0.5 + (t - w) * w) / s
    }
}

/// Cached tokens read at all.
#[inline(always)]
pub fn reach(mask: Option<MaskSpec>, s: f64, t: f64) -> f64 {
    match mask.and_then(|m| m.window) {
        Some(window) => t.min(window as f64 + s - 1.0),
        None => t,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_counts_pairs() {
        for (s, t, window) in [
            (5, 5, None),
            (1, 9, None),
            (3, 9, None),
            (6, 6, Some(4)),
            (2, 9, Some(4)),
            (6, 8, Some(4)),
            (1, 3, Some(4)),
        ] {
            let pairs: u64 = (t - s + 1..=t).map(|position: u64| position.min(window.unwrap_or(u64::MAX))).sum();
            let mean = visible(Some(MaskSpec { window }), s as f64, t as f64);
            assert!((mean - pairs as f64 / s as f64).abs() < 1e-12, "{s} {t} {window:?}");
        }
        assert_eq!(visible(None, 4.0, 9.0), 9.0);
    }
}
