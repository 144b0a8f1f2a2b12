//! The variables of a pass for one block of points: sequences, tokens, masks, experts hit.
//!
//! Everything here depends on the point's sequences and tokens alone, so that it is computed once and used by all kernels.

use std::sync::Arc;

use super::attention::{reach, visible};
use crate::input::plan::MaskSpec;
use crate::numeric::lanes::{Basis, LANES, Lane};
use crate::routing::Table;
use crate::routing::table::{Places, places};

/// The variables of a pass, one lane a point, and everything derived from them alone.
#[derive(Clone, Debug)]
pub struct Env<const L: usize = LANES> {
    /// Monomials of `b`, `s` and `t` without a mask.
    pub plain: Basis<L>,
    /// By mask: monomials with the visible pairs for `s·t` (Eq. 5.11), and with the tokens read from the cache for `t` (Eq. 4.1).
    pub masks: Vec<(Basis<L>, Basis<L>)>,
    /// Experts hit on a mean GPU: E of Eq. 6.7.
    pub hits: Lane<L>,
    /// Experts hit on the busiest GPU: E_b.
    pub busy_hits: Lane<L>,
    /// Choices of experts on the busiest GPU over those on a mean one: λ by expert (Eq. 7.4).
    pub choices: Lane<L>,
    /// The same of tokens, each counted once a GPU: λ by GPU (Eq. 7.4).
    pub tokens: Lane<L>,
    /// Rows of the routing table between which each point lies.
    pub places: Places<L>,
}

impl<const L: usize> Default for Env<L> {
    fn default() -> Self {
        Self {
            plain: Basis::NONE,
            masks: Vec::new(),
            hits: [0.0; L],
            busy_hits: [0.0; L],
            choices: [1.0; L],
            tokens: [1.0; L],
            places: places(&[1.0; L]),
        }
    }
}

impl<const L: usize> Env<L> {
    /// Sets all variables from the sequences `b`, new tokens and visible tokens of one data-parallel rank.
    ///
    /// A context-parallel rank has a share of the new tokens in prefill, and of the visible ones in decode (Eq. 8.5); masks
    /// take the whole numbers. Without `experts`, what concerns routing stays as it is.
    #[inline(always)]
    pub fn fill(
        &mut self,
        b: &Lane<L>,
        (new, new_share): (&Lane<L>, f64),
        (visible_tokens, visible_share): (&Lane<L>, f64),
        masks: &[MaskSpec],
        experts: Option<&Experts>,
    ) {
        let (mut s, mut t, mut st) = ([0.0; L], [0.0; L], [0.0; L]);
        for i in 0..L {
            s[i] = new[i] * new_share;
            t[i] = visible_tokens[i] * visible_share;
            st[i] = s[i] * t[i];
        }
        let (s, t) = (&s, &t);
        self.plain.fill(b, s, t, &st);
        self.masks.resize(masks.len(), (Basis::NONE, Basis::NONE));
        for (mask, (pairs_basis, reach_basis)) in masks.iter().zip(&mut self.masks) {
            let (mut pairs, mut reached, mut unused) = ([0.0; L], [0.0; L], [0.0; L]);
            for i in 0..L {
                pairs[i] = s[i] * (visible(Some(*mask), new[i], visible_tokens[i]) * visible_share);
                reached[i] = reach(Some(*mask), new[i], visible_tokens[i]) * visible_share;
                unused[i] = s[i] * reached[i];
            }
            pairs_basis.fill(b, s, t, &pairs);
            reach_basis.fill(b, s, &reached, &unused);
        }
        if let Some(experts) = experts {
            let mut tokens = [0.0; L]; // T of Eq. 6.1
            for i in 0..L {
                tokens[i] = experts.pool * (b[i] * s[i]);
            }
            self.places = places(&tokens);
            let loads = experts.table.loads(&self.places);
            (self.hits, self.busy_hits) = (loads.hits, loads.busy_hits);
            if experts.sent {
                let (active, gpus) = (experts.active, experts.gpus);
                let busy = experts.table.busy_tokens(&self.places);
                let (mut missed, mut mean) = ([1.0; L], 1.0);
                for i in 0..L {
                    self.choices[i] = busy[i] * gpus / (tokens[i] * active);
                }
                for _ in 0..active as u32 {
                    mean *= 1.0 - 1.0 / gpus;
                    for i in 0..L {
                        missed[i] *= 1.0 - self.choices[i] / gpus;
                    }
                }
                for i in 0..L {
                    self.tokens[i] = (1.0 - missed[i]) / (1.0 - mean);
                }
            }
        }
    }
}

/// Routing constants of one mapping.
#[derive(Clone, Debug)]
pub struct Experts {
    /// Data-parallel ranks whose tokens form the pool (Eq. 6.1).
    pub pool: f64,
    /// Experts that a token takes.
    pub active: f64,
    /// GPUs over which experts are spread: ep.
    pub gpus: f64,
    /// Whether tokens are sent to them (dispatch and combine), which makes the busiest GPU's share matter.
    pub sent: bool,
    /// Experts of a GPU, copies included: X_ℓ of Eq. 6.1.
    pub local: f64,
    /// Experts hit and tiles by tokens of the pool.
    pub table: Arc<Table>,
}

impl<const L: usize> Env<L> {
    /// Monomials under a mask: with visible pairs, and with the tokens read from the cache; the plain ones without a mask.
    #[inline(always)]
    pub fn bases(&self, mask: Option<usize>) -> (&Basis<L>, &Basis<L>) {
        match mask.and_then(|m| self.masks.get(m)) {
            Some((pairs, reach)) => (pairs, reach),
            None => (&self.plain, &self.plain),
        }
    }
}
