//! The variables of a step for one block of points: sequences, tokens, masks, experts hit.

use std::sync::Arc;

use super::attention::{reach, visible};
use crate::input::plan::MaskSpec;
use crate::numeric::lanes::{Basis, LANES, Lane};
use crate::routing::Table;
use crate::routing::table::{Places, places};

/// The step's variables for one block of points, and everything derived from them alone.
#[derive(Clone, Debug)]
pub struct Env<const L: usize = LANES> {
    /// Unmasked monomials.
    pub plain: Basis<L>,
    /// By mask: monomials with visible pairs, and with the reach into the cache.
    pub masks: Vec<(Basis<L>, Basis<L>)>,
    /// Experts hit on a mean GPU.
    pub hits: Lane<L>,
    /// Experts hit on the busiest GPU.
    pub busy_hits: Lane<L>,
    /// Choices that meet the busiest GPU, by those that meet a mean one.
    pub choices: Lane<L>,
    /// The same of tokens, each counted once.
    pub tokens: Lane<L>,
    /// Where the table of routing is looked up.
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
    /// Takes the values of sequences, new tokens and visible tokens of one data-parallel rank; a context-parallel rank has
    /// a share of the new tokens and sees a share of the others.
    #[inline(always)]
    pub fn fill(
        &mut self,
        b: &Lane<L>,
        (new, new_share): (&Lane<L>, f64),
        (seen, seen_share): (&Lane<L>, f64),
        masks: &[MaskSpec],
        experts: Option<&Experts>,
    ) {
        let (mut s, mut t, mut st) = ([0.0; L], [0.0; L], [0.0; L]);
        for i in 0..L {
            s[i] = new[i] * new_share;
            t[i] = seen[i] * seen_share;
            st[i] = s[i] * t[i];
        }
        let (s, t) = (&s, &t);
        self.plain.fill(b, s, t, &st);
        self.masks.resize(masks.len(), (Basis::NONE, Basis::NONE));
        for (mask, (pairs_basis, reach_basis)) in masks.iter().zip(&mut self.masks) {
            let (mut pairs, mut reached, mut unused) = ([0.0; L], [0.0; L], [0.0; L]);
            for i in 0..L {
                pairs[i] = s[i] * (visible(Some(*mask), new[i], seen[i]) * seen_share);
                reached[i] = reach(Some(*mask), new[i], seen[i]) * seen_share;
                unused[i] = s[i] * reached[i];
            }
            pairs_basis.fill(b, s, t, &pairs);
            reach_basis.fill(b, s, &reached, &unused);
        }
        if let Some(experts) = experts {
            let mut tokens = [0.0; L];
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
    /// Data-parallel ranks whose tokens meet.
    pub pool: f64,
    /// Experts that a token takes.
    pub active: f64,
    /// GPUs that they are dealt to.
    pub gpus: f64,
    /// Whether tokens are sent there, each from one GPU.
    pub sent: bool,
    /// Experts of a GPU, copies included.
    pub local: f64,
    /// What tokens load on GPUs.
    pub table: Arc<Table>,
}

impl<const L: usize> Env<L> {
    /// Monomials with visible pairs, and with the reach into the cache, under a mask.
    #[inline(always)]
    pub fn bases(&self, mask: Option<usize>) -> (&Basis<L>, &Basis<L>) {
        match mask.and_then(|m| self.masks.get(m)) {
            Some((pairs, reach)) => (pairs, reach),
            None => (&self.plain, &self.plain),
        }
    }
}
