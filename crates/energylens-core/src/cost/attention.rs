//! Fused attention: masks, and how full the last wave of thread blocks is (Eq. 5.8, 5.9, 5.11).

use crate::input::plan::MaskSpec;
use crate::numeric::lanes::{Basis, Lane, ceiling};
use crate::numeric::shape::Poly;

/// Query rows of one thread block (the 128 of Eq. 5.9 and 5.10).
pub const QUERY_ROWS: f64 = 128.0;

/// The matrix work of an attention kernel (Eq. 5.8, 5.9).
///
/// Polynomials are in the sequences `b`, new tokens `s` and visible tokens `t` of a pass, local to one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Seconds of its FLOPs at the rate it reaches (Eq. 5.7), with pairs of new and visible tokens as `s·t`.
    pub seconds: Poly,
    /// Query heads times sequences: independent rows besides those along `s`.
    pub heads: Poly,
    /// Decode: seconds that each sequence and KV head takes, whatever its length.
    pub sequences: Poly,
    /// Prefill: padding and waves of thread blocks; none in decode.
    pub blocks: Option<Blocks>,
}

/// Thread blocks of 128 query rows, which work on a prompt (Eq. 5.9).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    /// Rows to which prompts are padded; under a causal mask a padded row has half as many visible tokens more.
    pub pad: f64,
    /// Seconds for each visible token of the longest block, which ends last: `c_ℓ·τ_u` (Eq. 5.10).
    pub token_s: f64,
    /// Seconds of one wave of blocks over all SMs: `c_w·τ_u`.
    pub wave_s: f64,
    /// Window of the mask in tokens; infinite without one.
    pub window: f64,
}

impl Attention {
    /// Adds its matrix seconds on `sms` SMs to `time` (Eq. 5.8, 5.9); `basis` has the visible pairs under its mask.
    #[inline(always)]
    pub fn add<const L: usize>(&self, basis: &Basis<L>, sms: f64, time: &mut Lane<L>) {
        let seconds = basis.value(&self.seconds);
        basis.add(&self.sequences, 1.0, time);
        let Some(Blocks { pad, token_s, wave_s, window }) = self.blocks else {
            for i in 0..L {
                time[i] += seconds[i];
            }
            return;
        };
        let heads = basis.value(&self.heads);
        let (s, t, pairs) = (&basis.0[2], &basis.0[4], &basis.0[6]);
        let more = 0.5 * (pad - 1.0);
        for i in 0..L {
            let rows = ceiling(s[i] / pad) * pad;
            let padded = seconds[i] * (rows / s[i]) * (1.0 + more * s[i] / pairs[i]);
            let waves = ceiling(heads[i] * ceiling(s[i] * (1.0 / QUERY_ROWS)) / sms);
            let longest = if t[i] < window { t[i] } else { window };
            time[i] += padded + token_s * longest + wave_s * waves;
        }
    }
}

/// Mean number of tokens visible to a new one, over `s` new tokens ending at `t` (Eq. 5.11).
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

/// Tokens whose keys and values are read from the cache (Eq. 4.1).
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
