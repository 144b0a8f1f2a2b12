//! The KV cache of an engine: tokens that requests hold, and prefixes that stay while there is room.

use super::engine::{Engine, Requests};
use super::prefix::PrefixCache;
use crate::error::Problem;

/// The KV cache of an engine.
pub(super) struct KvCache<'a> {
    prefixes: PrefixCache,
    /// Tokens that requests hold.
    pub(super) held_tokens: u64,
    engine: Engine,
    requests: Requests<'a>,
}

impl<'a> KvCache<'a> {
    /// An empty cache.
    ///
    /// # Errors
    /// If there is not memory for so many different blocks.
    pub(super) fn new(engine: Engine, requests: Requests<'a>) -> Result<Self, Problem> {
        let ids = requests.blocks.iter().flat_map(|blocks| blocks.iter());
        let different = ids.max().map_or(0, |most| *most as usize + 1);
        Ok(Self { prefixes: PrefixCache::new(different)?, held_tokens: 0, engine, requests })
    }

    /// Blocks of a prompt that may be shared: all but the one of its last token, which is read in any case, because the first
    /// output token follows from it.
    fn shared_blocks(&self, request: usize) -> &'a [u32] {
        let all: &[u32] = self.requests.blocks.get(request).copied().unwrap_or(&[]);
        let most = (u64::from(self.requests.prompt_tokens[request]) - 1) / self.engine.block_tokens.max(1);
        &all[..all.len().min(most as usize)]
    }

    /// Reserves `tokens` (the prompt, and outputs made before a preemption) for a request if they leave one token free for each
    /// of the `running`, or if nothing else runs; returns how many of them the prefix cache holds, and the blocks they are in.
    pub(super) fn admit(
        &mut self,
        request: usize,
        tokens: u64,
        running: u64,
        nothing_runs: bool,
    ) -> Option<(u64, Vec<u32>)> {
        let prompt_tokens = u64::from(self.requests.prompt_tokens[request]);
        let blocks = self.shared_blocks(request);
        let (hits, unreferenced) = self.prefixes.lookup(blocks);
        let hit_tokens = hits as u64 * self.engine.block_tokens;
        let fresh = tokens - hit_tokens + unreferenced * self.engine.block_tokens;
        if self.held_tokens + fresh + running >= self.engine.cache_tokens && !nothing_runs {
            return None;
        }
        let blocks = blocks[..hits].to_vec();
        self.prefixes.acquire(&blocks);
        self.held_tokens += fresh;
        self.evict();
        let stated = ((self.engine.prefix_hit_share * prompt_tokens as f64) as u64).min(prompt_tokens - 1);
        Some((if self.requests.blocks.is_empty() { stated } else { hit_tokens }, blocks))
    }

    /// Offers the prefix of a request whose prompt has been read to later ones; `held_blocks` are those it holds.
    pub(super) fn share(&mut self, request: usize, held_blocks: &mut Vec<u32>) {
        let blocks = self.shared_blocks(request);
        if blocks.len() > held_blocks.len() {
            let fresh = self.prefixes.insert(&blocks[held_blocks.len()..]);
            held_blocks.extend(fresh);
        }
    }

    /// Lets go of a request that holds `tokens`, some of them in blocks.
    pub(super) fn release(&mut self, blocks: &[u32], tokens: u64) {
        let outside = tokens.saturating_sub(blocks.len() as u64 * self.engine.block_tokens);
        let released = outside + self.prefixes.release(blocks) * self.engine.block_tokens;
        self.held_tokens = self.held_tokens.saturating_sub(released);
        self.evict();
    }

    /// Evicts prefixes where requests need the room.
    pub(super) fn evict(&mut self) {
        if self.prefixes.unreferenced > 0 {
            let room = self.engine.cache_tokens.saturating_sub(self.held_tokens);
            self.prefixes.shrink(room / self.engine.block_tokens.max(1));
        }
    }
}
