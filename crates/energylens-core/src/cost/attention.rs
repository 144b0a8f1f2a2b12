//! Fused attention: masks, and how full the last wave is.

use crate::input::plan::MaskSpec;
use crate::numeric::lanes::{Basis, Lane, ceiling};
use crate::numeric::shape::Poly;

/// Rows of queries one thread block takes.
pub const QUERY_ROWS: f64 = 128.0;

/// The matrix work of an attention kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Seconds of the FLOPs on the whole GPU at the reached rate, with the visible pairs as `s·t`.
    pub seconds: Poly,
    /// Independent query rows besides those along s.
    pub heads: Poly,
    /// Seconds of one sequence and head of the cache, whatever its length.
    pub sequences: Poly,
    /// What a prompt takes besides.
    pub blocks: Option<Blocks>,
}

/// Blocks of 128 query rows, as a prompt is worked on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    /// Rows to which prompts are padded; a padded row sees half as many tokens more.
    pub pad: f64,
    /// Seconds of one visible token of one block on every SM, for the longest block to end.
    pub token_s: f64,
    /// Seconds of one wave of blocks.
    pub wave_s: f64,
    /// Longest reach of a mask.
    pub window: f64,
}

impl Attention {
    /// Adds its compute time to `time`.
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
