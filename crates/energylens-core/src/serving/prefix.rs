//! Prefixes kept: blocks of prompts whose cache is still there, and how many a cache of a size would find.

use std::collections::VecDeque;

use super::replay::WORK_A_LOOK;
use crate::error::Problem;
use crate::system::memory::filled;
use crate::system::stop::stopped;

/// A block that some prompt begins with.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Requests that hold it.
    held: u32,
    /// When it was last let go, if it is cached and nobody holds it; else 0.
    free_since: u64,
    cached: bool,
}

/// Blocks in the caches of an engine: those held by requests, and others until their room is needed, the longest unused first.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    blocks: Vec<Block>,
    /// Candidates to be given up, the longest unused first; stale where times differ.
    unused: VecDeque<(u32, u64)>,
    clock: u64,
    /// Blocks kept that no request holds.
    pub free: u64,
}

impl Kept {
    /// None kept of so many different blocks.
    ///
    /// # Errors
    /// If there is not memory for so many.
    pub fn new(different: usize) -> Result<Self, Problem> {
        let blocks = filled(Block::default(), different, &format!("a cache of {different} different blocks"))?;
        Ok(Self { blocks, ..Self::default() })
    }

    /// How many of the first blocks of a prompt are kept, and how many of these no request holds.
    pub fn found(&self, prompt: &[u32]) -> (usize, u64) {
        let kept = prompt.iter().take_while(|id| self.blocks[**id as usize].cached);
        kept.fold((0, 0), |(all, free), id| (all + 1, free + u64::from(self.blocks[*id as usize].held == 0)))
    }

    /// Holds blocks that are kept.
    pub fn hold(&mut self, blocks: &[u32]) {
        for id in blocks {
            let block = &mut self.blocks[*id as usize];
            self.free -= u64::from(block.held == 0);
            block.held += 1;
        }
    }

    /// Keeps and holds those blocks that are not kept yet; returns which.
    pub fn keep(&mut self, blocks: &[u32]) -> Vec<u32> {
        let mut fresh = Vec::new();
        for id in blocks {
            let block = &mut self.blocks[*id as usize];
            if !block.cached {
                *block = Block { held: 1, free_since: 0, cached: true };
                fresh.push(*id);
            }
        }
        fresh
    }

    /// Lets go of blocks, the last of a prompt to be given up first; returns how many nobody holds any more.
    pub fn release(&mut self, blocks: &[u32]) -> u64 {
        let before = self.free;
        for id in blocks.iter().rev() {
            let block = &mut self.blocks[*id as usize];
            block.held -= 1;
            if block.held == 0 {
                self.clock += 1;
                block.free_since = self.clock;
                self.free += 1;
                self.unused.push_back((*id, self.clock));
            }
        }
        if self.unused.len() as u64 > 4 * self.free + 4096 {
            let blocks = &self.blocks;
            self.unused.retain(|(id, since)| {
                let block = blocks[*id as usize];
                block.cached && block.held == 0 && block.free_since == *since
            });
        }
        self.free - before
    }

    /// Gives up blocks that nobody holds until at most so many are left.
    pub fn shrink(&mut self, most: u64) {
        while self.free > most {
            let Some((id, since)) = self.unused.pop_front() else { break };
            let block = &mut self.blocks[id as usize];
            if block.cached && block.held == 0 && block.free_since == since {
                block.cached = false;
                self.free -= 1;
            }
        }
    }
}

/// Tokens of prompts that caches of so many tokens would find, were all of it kept for prefixes (least recently used out first).
///
/// `blocks[i]` are those that prompt i begins with. A block is found if all before it are, and if the different blocks touched since
/// its last use, itself included, fit: one walk answers for all sizes (Mattson's stack distances).
///
/// # Errors
/// If there is not memory for so many blocks.
pub fn found(blocks: &[&[u32]], different: usize, block_tokens: u64, capacities: &[u64]) -> Result<Vec<u64>, Problem> {
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
        if work > WORK_A_LOOK {
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
    fn found_is_what_an_lru_of_that_size_finds() {
        // Prompts that share beginnings, in an order that lets some fall out.
        let prompts: Vec<Vec<u32>> =
            (0..400_u32).map(|i| (0..1 + i % 5).map(|depth| 100 * ((i * i) % 13) + depth).collect()).collect();
        let told: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        for room in [0_usize, 1, 5, 17, 40, 1000] {
            let mut lru: Vec<u32> = Vec::new();
            let mut hits = 0;
            for prompt in &prompts {
                hits += prompt.iter().take_while(|id| lru.contains(id)).count() as u64;
                for id in prompt.iter().rev() {
                    lru.retain(|kept| kept != id);
                    lru.insert(0, *id);
                }
                lru.truncate(room);
            }
            assert_eq!(found(&told, 1400, 1, &[room as u64]).unwrap()[0], hits, "{room} blocks");
        }
    }

    #[test]
    fn blocks_held_are_never_given_up() {
        let mut kept = Kept::new(4).unwrap();
        assert_eq!(kept.keep(&[0, 1, 2]), [0, 1, 2]);
        kept.hold(&[0]);
        assert_eq!(kept.release(&[0, 1, 2]), 2);
        kept.shrink(1);
        assert_eq!((kept.found(&[0, 1, 2]), kept.free), ((2, 1), 1));
        kept.shrink(0);
        assert_eq!(kept.found(&[0, 1, 2]), (1, 0));
        assert_eq!(kept.found(&[3]), (0, 0));
    }
}
