//! Device memory of a layout: weights, cache and activations of one GPU.

use std::collections::BTreeSet;

use crate::graph::Block;
use crate::lowering::context::Lowering;
use crate::lowering::parts::{Blocks, CacheShape};
use crate::numeric::shape::Poly;

/// Activations of a kernel: its mask, as a position in its phase's, and their bytes.
pub type Activations = (Option<usize>, Poly);

impl Lowering<'_> {
    /// Bytes of weights that one GPU holds of one repetition of each block (section 9 of the physics page). Tied weights count in the first block that
    /// reads them.
    pub(super) fn weights(&self) -> Vec<f64> {
        let mut tied_seen: BTreeSet<&str> = BTreeSet::new();
        let mut all = Vec::new();
        for block in &self.graph.blocks {
            let mut bytes = 0.0;
            for (name, (ranks, routed)) in &self.graph.block_weights(block) {
                let tied = self.graph.tied.get(name);
                if tied.is_none_or(|name| tied_seen.insert(name)) {
                    // Replicated experts are held several times.
                    let copies = match (&self.experts, self.graph.routed) {
                        (Some(experts), Some(rank)) if *routed && ranks.contains(&rank.rank) => {
                            experts.local * f64::from(self.mesh.ep) / rank.extent
                        }
                        _ => 1.0,
                    };
                    let elements = copies * self.mesh.held(self.graph, block, ranks, *routed);
                    bytes += elements * self.format(name, "weights").bytes;
                }
            }
            all.push(bytes);
        }
        all
    }

    /// Cache of one repetition of each block.
    pub(super) fn caches(&self) -> Vec<CacheShape> {
        self.graph.blocks.iter().map(|block| self.cache(block)).collect()
    }

    /// Cache of a block: what its kernels write of a token, and the widest window of those that read it.
    fn cache(&self, block: &Block) -> CacheShape {
        let mut bytes_per_token = 0.0;
        let mut counted: BTreeSet<&str> = BTreeSet::new();
        let mut window: Option<f64> = None;
        for kernel in &block.kernels {
            for line in &kernel.lines {
                let result = &line.equation.result;
                if self.graph.cache.contains(&result.name) && counted.insert(&result.name) {
                    let local = self.mesh.local(self.graph, block, &result.ranks, line.routed);
                    let elements: f64 = local.terms().iter().map(|(_, c)| c).sum();
                    bytes_per_token += elements * self.format(&result.name, "cache").bytes;
                }
                let reads_cache = line.equation.reads().any(|t| t.has('t') && self.graph.cache.contains(&t.name));
                if reads_cache {
                    let tokens = kernel.mask.and_then(|m| m.window).map_or(f64::INFINITY, |w| w as f64);
                    window = Some(window.map_or(tokens, |w: f64| w.max(tokens)));
                }
            }
        }
        CacheShape { bytes_per_token, window: window.unwrap_or(f64::INFINITY) }
    }
}

/// Activations of those kernels that may need the most: a kernel that another one exceeds in every term is left out.
pub(super) fn largest_activations(blocks: &Blocks) -> Vec<Activations> {
    let mut largest: Vec<Activations> = Vec::new();
    for kernel in blocks.iter().flatten() {
        let next = (kernel.cost.mask, kernel.cost.traffic.activations.clone());
        let within = |small: &Activations, large: &Activations| {
            let of = |bits| large.1.terms().iter().find(|(b, _)| *b == bits).map_or(0.0, |(_, c)| *c);
            small.0 == large.0 && small.1.terms().iter().all(|(bits, c)| *c <= of(*bits))
        };
        if !largest.iter().any(|large| within(&next, large)) {
            largest.retain(|small| !within(small, &next));
            largest.push(next);
        }
    }
    largest
}
