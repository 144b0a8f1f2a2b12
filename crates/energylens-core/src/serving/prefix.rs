//! Prefix caching: blocks of prompts whose KV cache is still there, and how many a cache of a size would hold.

use std::collections::VecDeque;

use crate::error::Problem;
use crate::system::memory::filled;
use crate::system::stop::{WORK_PER_CHECK, stopped};

/// Entries of the list of eviction candidates may be stale; beyond so many for each block, and so many in any case, they are
/// swept out, which costs a constant time an entry.
const STALE_PER_BLOCK: u64 = 4;
const STALE_ALLOWED: u64 = 4096;

/// A block that some prompt begins with.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Requests that hold it.
    references: u32,
    /// Tick at which the last reference was dropped, if it is cached and nobody holds it; else 0.
    unreferenced_since: u64,
    cached: bool,
}

/// Blocks in the KV cache of an engine: those held by requests, and others until their room is needed; the least recently used
/// are evicted first.
#[derive(Clone, Debug, Default)]
pub struct PrefixCache {
    blocks: Vec<Block>,
    /// Blocks to evict with the tick of their last use, the oldest first; an entry whose tick is not that of its block is stale.
    lru: VecDeque<(u32, u64)>,
    tick: u64,
    /// Cached blocks that no request holds.
    pub unreferenced: u64,
}

impl PrefixCache {
    /// An empty cache for so many different blocks.
    ///
    /// # Errors
    /// If there is not memory for so many.
    pub fn new(different: usize) -> Result<Self, Problem> {
        let blocks = filled(Block::default(), different, &format!("a cache of {different} different blocks"))?;
        Ok(Self { blocks, ..Self::default() })
    }

    /// How many of the first blocks of a prompt are cached, and how many of these no request holds.
    pub fn lookup(&self, prompt: &[u32]) -> (usize, u64) {
        let (mut hits, mut unreferenced) = (0, 0);
        for id in prompt {
            let block = &self.blocks[*id as usize];
            if !block.cached {
                break;
            }
            hits += 1;
            unreferenced += u64::from(block.references == 0);
        }
        (hits, unreferenced)
    }

    /// Adds a reference to cached blocks.
    pub fn acquire(&mut self, blocks: &[u32]) {
        for id in blocks {
            let block = &mut self.blocks[*id as usize];
            self.unreferenced -= u64::from(block.references == 0);
            block.references += 1;
        }
    }

    /// Caches those blocks that are not cached yet, with a reference to each; returns which.
    pub fn insert(&mut self, blocks: &[u32]) -> Vec<u32> {
        let mut fresh = Vec::new();
        for id in blocks {
            let block = &mut self.blocks[*id as usize];
            if !block.cached {
                *block = Block { references: 1, unreferenced_since: 0, cached: true };
                fresh.push(*id);
            }
        }
        fresh
    }

    /// Drops a reference to blocks, the last of a prompt to be evicted first; returns how many nobody holds any more.
    pub fn release(&mut self, blocks: &[u32]) -> u64 {
        let before = self.unreferenced;
        for id in blocks.iter().rev() {
            let block = &mut self.blocks[*id as usize];
            block.references -= 1;
            if block.references == 0 {
                self.tick += 1;
                block.unreferenced_since = self.tick;
                self.unreferenced += 1;
                self.lru.push_back((*id, self.tick));
            }
        }
        if self.lru.len() as u64 > STALE_PER_BLOCK * self.unreferenced + STALE_ALLOWED {
            let blocks = &self.blocks;
            self.lru.retain(|(id, since)| {
                let block = blocks[*id as usize];
                block.cached && block.references == 0 && block.unreferenced_since == *since
            });
        }
        self.unreferenced - before
    }

    /// Evicts blocks that nobody holds until at most so many are left.
    pub fn shrink(&mut self, most: u64) {
        while self.unreferenced > most {
            let Some((id, since)) = self.lru.pop_front() else { break };
            let block = &mut self.blocks[id as usize];
            if block.cached && block.references == 0 && block.unreferenced_since == since {
                block.cached = false;
                self.unreferenced -= 1;
            }
        }
    }
}

/// Prompt tokens that prefix caches of each of these capacities (in tokens) would hold, the least recently used block evicted
/// first.
///
/// `blocks[i]` are those that prompt i begins with. A block is a hit if all before it are, and if the different blocks touched
/// since its last use, itself included, fit: one walk answers for all sizes (Mattson's stack distances).
///
/// # Errors
/// If there is not memory for so many blocks.
pub fn hit_tokens(
    blocks: &[&[u32]],
    different: usize,
    block_tokens: u64,
    capacities: &[u64],
) -> Result<Vec<u64>, Problem> {
    let touches: usize = blocks.iter().map(|prompt| prompt.len()).sum();
    let what = format!("prefixes of {touches} blocks");
    let mut marks = filled(0_i64, touches + 1, &what)?;
    let mut last = filled(0_usize, different, &what)?;
    let mut work = 0;
    let mut hits = vec![0_u64; capacities.len()];
    let mut now = 0;
    let add = |marks: &mut Vec<i64>, mut at: usize, by: i64| {
        while at <= touches {
            marks[at] += by;
            at += at & at.wrapping_neg();
        }
    };
    let up_to = |marks: &[i64], mut at: usize| {
        let mut sum = 0;
        while at > 0 {
            sum += marks[at];
            at &= at - 1;
        }
        sum
    };
    for prompt in blocks {
        work += prompt.len() * (capacities.len() + 1);
        if work > WORK_PER_CHECK {
            work = 0;
            if stopped() {
                break;
            }
        }
        // How deep each block lies before this request touches any, the deepest so far counting.
        let mut deepest = 0_u64;
        for id in *prompt {
            let seen = last[*id as usize];
            if seen == 0 {
                break;
            }
            let above = up_to(&marks, touches) - up_to(&marks, seen - 1);
            deepest = deepest.max((above as u64).saturating_mul(block_tokens));
            for (hit, capacity) in hits.iter_mut().zip(capacities) {
                *hit = hit.saturating_add(if deepest <= *capacity { block_tokens } else { 0 });
            }
        }
        for id in prompt.iter().rev() {
            let seen = &mut last[*id as usize];
            if *seen > 0 {
                add(&mut marks, *seen, -1);
            }
            now += 1;
            *seen = now;
            add(&mut marks, now, 1);
        }
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_those_of_an_lru_of_that_size() {
        // Prompts that share beginnings, in an order that lets some fall out.
        let prompts: Vec<Vec<u32>> =
            (0..400_u32).map(|i| (0..1 + i % 5).map(|depth| 100 * ((i * i) % 13) + depth).collect()).collect();
        let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        for room in [0_usize, 1, 5, 17, 40, 1000] {
            let mut lru: Vec<u32> = Vec::new();
            let mut hits = 0;
            for prompt in &prompts {
                hits += prompt.iter().take_while(|id| lru.contains(id)).count() as u64;
                for id in prompt.iter().rev() {
                    lru.retain(|cached| cached != id);
                    lru.insert(0, *id);
                }
                lru.truncate(room);
            }
            assert_eq!(hit_tokens(&slices, 1400, 1, &[room as u64]).unwrap()[0], hits, "{room} blocks");
        }
    }

    #[test]
    fn blocks_in_use_are_never_evicted() {
        let mut cache = PrefixCache::new(4).unwrap();
        assert_eq!(cache.insert(&[0, 1, 2]), [0, 1, 2]);
        cache.acquire(&[0]);
        assert_eq!(cache.release(&[0, 1, 2]), 2);
        cache.shrink(1);
        assert_eq!((cache.lookup(&[0, 1, 2]), cache.unreferenced), ((2, 1), 1));
        cache.shrink(0);
        assert_eq!(cache.lookup(&[0, 1, 2]), (1, 0));
        assert_eq!(cache.lookup(&[3]), (0, 0));
    }
}
