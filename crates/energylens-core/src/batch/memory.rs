//! Bytes of memory of the fullest GPU (Eq. 9.3).

use crate::cost::attention::visible;
use crate::lowering::mapping::Mapping;
use crate::numeric::lanes::{Lane, ceiling};
use crate::numeric::simd::Work;

/// Bytes of activations of the largest kernel in the fullest prefill pass, with those that are reserved.
pub(super) struct Activations<'a, const L: usize> {
    pub mapping: &'a Mapping,
    /// Sequences of a data-parallel rank in the fullest pass.
    pub fullest: &'a Lane<L>,
    pub prompt_tokens: &'a Lane<L>,
    /// The result.
    pub bytes: &'a mut Lane<L>,
}

impl<const L: usize> Work for Activations<'_, L> {
    #[inline(always)]
    fn run(self) {
        let mut largest = [0.0; L];
        let share = 1.0 / f64::from(self.mapping.mesh.cp);
        for (mask, polynomial) in &self.mapping.activations {
            let mask = mask.and_then(|m| self.mapping.prefill.masks.get(m)).copied();
            for i in 0..L {
                let (b, s, t) = (self.fullest[i], self.prompt_tokens[i], self.prompt_tokens[i]);
                let (s, pairs) = (s * share, s * share * visible(mask, s, t));
                let monomials = [1.0, b, s, b * s, t, b * t, pairs, b * pairs];
                let bytes = polynomial.at(&monomials);
                largest[i] = if bytes > largest[i] { bytes } else { largest[i] };
            }
        }
        for i in 0..L {
            self.bytes[i] = largest[i] + self.mapping.constants.reserve_bytes;
        }
    }
}

/// Bytes of weights and KV cache of a GPU in the fullest pipeline stage, with requests of `length` tokens (Eq. 9.4).
#[inline(always)]
pub fn held_bytes<const L: usize>(mapping: &Mapping, batch: &Lane<L>, length: &Lane<L>) -> Lane<L> {
    let (dp, cp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.cp));
    let mut fullest = [0.0; L];
    for kind in &mapping.kinds {
        let mut stage = [0.0; L];
        for (block, count) in kind.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (weights, cache) = (mapping.weights[block], mapping.caches[block]);
            for i in 0..L {
                let sequences = ceiling(batch[i] / dp);
                let tokens = if length[i] < cache.window { length[i] } else { cache.window };
                stage[i] += count * (weights + sequences * tokens * cache.bytes_per_token / cp);
            }
        }
        for i in 0..L {
            fullest[i] = if stage[i] > fullest[i] { stage[i] } else { fullest[i] };
        }
    }
    fullest
}
