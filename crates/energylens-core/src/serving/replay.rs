//! Requests of a trace, one after the other, through continuous batching: the judge of what holds in steady state.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::prefix::Kept;
pub use super::steps::Steps;
use crate::error::Problem;
use crate::system::memory::filled;
use crate::system::stop::stopped;

/// Lanes and requests gone through between two looks at whether to stop.
pub const WORK_A_LOOK: usize = 4096;

/// Requests in the order of their arrivals.
#[derive(Clone, Copy, Debug)]
pub struct Requests<'a> {
    /// Seconds at which each arrives, rising.
    pub arrival_s: &'a [f64],
    /// Prompt tokens, at least one.
    pub input: &'a [u32],
    /// Tokens to be made, at least one.
    pub output: &'a [u32],
    /// Blocks that each prompt begins with, numbered from 0; empty if prefixes are not known.
    pub blocks: &'a [&'a [u32]],
}

/// How an engine batches.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// Requests that may run at once.
    pub most_running: usize,
    /// Tokens worked on in a step.
    pub token_budget: u64,
    /// Tokens that its caches hold.
    pub cache_tokens: u64,
    /// Whether prompts are read in parts beside decoding; else whole, while decoding waits.
    pub chunked: bool,
    /// Whether prompts are read here; else caches come with the requests, and a first step makes the next token at once.
    pub reads: bool,
    /// Tokens of a prefix block.
    pub block_tokens: u64,
    /// Share of each prompt that is found where blocks are not known.
    pub found_share: f64,
    /// Data-parallel ranks times pipeline stages: a prompt is read on one of them.
    pub lanes: usize,
    /// Watts while no request runs, of all GPUs.
    pub idle_w: f64,
    /// Seconds after the first arrival from which `Window` counts, up to the last arrival.
    pub warm_s: f64,
}

/// What happened between warming up and the last arrival.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Its seconds.
    pub seconds: f64,
    /// Joules of steps, and of waiting.
    pub joules: f64,
    /// Of these, those of waiting.
    pub idle_j: f64,
    /// Tokens made.
    pub made: u64,
    /// Seconds with any request running.
    pub busy_s: f64,
    /// Seconds of requests that decoded, summed.
    pub ran_s: f64,
}

impl Window {
    fn add(&mut self, seconds: f64, joules: f64, made: u64, running: u64) {
        self.seconds += seconds;
        self.busy_s += seconds;
        self.joules += joules;
        self.made += made;
        self.ran_s += seconds * running as f64;
    }

    fn wait(&mut self, seconds: f64, watts: f64) {
        self.seconds += seconds;
        self.idle_j += seconds * watts;
        self.joules += seconds * watts;
    }
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Seconds from each arrival to its first token; NaN if refused.
    pub first_s: Vec<f64>,
    /// Seconds from each arrival to its last token.
    pub done_s: Vec<f64>,
    /// Steps.
    pub steps: u64,
    /// Seconds from the first arrival to the last token.
    pub span_s: f64,
    /// Seconds with any request running.
    pub busy_s: f64,
    /// Joules of steps, and of waiting.
    pub joules: f64,
    /// Of these, those of waiting.
    pub idle_j: f64,
    /// Mean tokens in the caches over time, those of prefixes kept apart.
    pub mean_held: f64,
    /// Mean requests that decode, over time.
    pub mean_running: f64,
    /// Without warming up and running out.
    pub window: Window,
    /// Prompt tokens found in the caches.
    pub found: u64,
    /// Requests put back for want of cache, each counted as often as it was.
    pub preempted: u64,
    /// Requests too long for the caches, never run.
    pub refused: u64,
}

/// A request whose prompt is being read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    request: usize,
    /// Tokens read or found so far.
    at: u64,
    /// Tokens to be read in all.
    to: u64,
}

/// What is kept of each request.
#[derive(Clone, Debug, Default)]
struct State {
    made: u32,
    /// Times it was put back.
    tries: u32,
    /// Step in which decoding began.
    begun: u64,
    /// Blocks it holds.
    held: Vec<u32>,
    done: bool,
}

/// The caches of an engine.
struct Caches<'a> {
    kept: Kept,
    /// Tokens held by requests.
    held: u64,
    engine: Engine,
    requests: Requests<'a>,
}

impl Caches<'_> {
    /// Blocks of a prompt, all but the one its last token is in.
    fn blocks(&self, request: usize) -> &[u32] {
        let all: &[u32] = self.requests.blocks.get(request).copied().unwrap_or(&[]);
        let most = (u64::from(self.requests.input[request]) - 1) / self.engine.block_tokens.max(1);
        &all[..all.len().min(most as usize)]
    }

    /// Takes a request in if there is room; returns how many of its tokens are found.
    fn admit(&mut self, request: usize, state: &mut State, running: u64, alone: bool) -> Option<u64> {
        let prompt = u64::from(self.requests.input[request]) + u64::from(state.made);
        let (count, unheld) = self.kept.found(self.blocks(request));
        let found = count as u64 * self.engine.block_tokens;
        let input = u64::from(self.requests.input[request]);
        let shared = ((self.engine.found_share * input as f64) as u64).min(input - 1);
        let fresh = prompt - found + unheld * self.engine.block_tokens;
        if self.held + fresh + running >= self.engine.cache_tokens && !alone {
            return None;
        }
        state.held = self.blocks(request)[..count].to_vec();
        self.kept.hold(&state.held);
        self.held += fresh;
        self.shrink();
        Some(if self.requests.blocks.is_empty() { shared } else { found })
    }

    /// Keeps the prefix of a request whose prompt has been read.
    fn keep(&mut self, request: usize, state: &mut State) {
        let blocks = self.blocks(request);
        if blocks.len() > state.held.len() {
            let blocks = blocks.to_vec();
            let fresh = self.kept.keep(&blocks[state.held.len()..]);
            state.held.extend(fresh);
        }
    }

    /// Lets go of a request that holds `tokens`.
    fn release(&mut self, state: &mut State, tokens: u64) {
        let blocks = std::mem::take(&mut state.held);
        let own = tokens.saturating_sub(blocks.len() as u64 * self.engine.block_tokens);
        self.held = self.held.saturating_sub(own + self.kept.release(&blocks) * self.engine.block_tokens);
        self.shrink();
    }

    /// Gives up prefixes where requests need the room.
    fn shrink(&mut self) {
        if self.kept.free > 0 {
            let room = self.engine.cache_tokens.saturating_sub(self.held);
            self.kept.shrink(room / self.engine.block_tokens.max(1));
        }
    }
}

/// Replays all requests: whole steps of at most `token_budget` tokens, a token of every running request first, prompts in the
/// order of their arrival in what is left; the latest request goes back to the queue where caches run out.
///
/// What was stopped has requests without an end.
///
/// # Errors
/// If there is not memory for so many requests and blocks.
pub fn replay(steps: &Steps, engine: Engine, requests: Requests) -> Result<Replayed, Problem> {
    let count = requests.arrival_s.len();
    let what = format!("a replay of {count} requests");
    let mut told = Replayed {
        first_s: filled(f64::NAN, count, &what)?,
        done_s: filled(f64::NAN, count, &what)?,
        ..Replayed::default()
    };
    let mut states = filled(State::default(), count, &what)?;
    let mut work = 0_usize;
    let different = requests.blocks.iter().flat_map(|own| own.iter()).max().map_or(0, |most| *most as usize + 1);
    let mut caches = Caches { kept: Kept::new(different)?, held: 0, engine, requests };
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let mut reading: VecDeque<Reading> = VecDeque::new();
    // Running requests by the decode step of their last token, and in the order in which they came.
    let mut ending: BinaryHeap<Reverse<(u64, usize, u32)>> = BinaryHeap::new();
    let mut order: Vec<usize> = Vec::new();
    let (mut now, mut next) = (requests.arrival_s.first().copied().unwrap_or(0.0), 0);
    let started = now;
    // Requests that decode, the tokens they attend to, and steps in which they did.
    let (mut running, mut seen, mut decoded) = (0_u64, 0_u64, 0_u64);
    let (mut held_time, mut ran) = (0.0, 0.0);
    let (warm, last) = (now + engine.warm_s, requests.arrival_s.last().copied().unwrap_or(0.0));
    let mut lanes = vec![0_u64; engine.lanes.max(1)];
    loop {
        work += lanes.len() + reading.len() + 16;
        if work > WORK_A_LOOK {
            work = 0;
            if stopped() {
                break;
            }
        }
        while next < count && requests.arrival_s[next] <= now {
            if u64::from(requests.input[next]) + u64::from(requests.output[next]) > engine.cache_tokens {
                told.refused += 1;
            } else {
                waiting.push_back(next);
            }
            next += 1;
        }
        while let Some(&request) = waiting.front() {
            let (state, alone) = (&mut states[request], running == 0 && reading.is_empty());
            if running as usize + reading.len() >= engine.most_running {
                break;
            }
            let to = u64::from(requests.input[request]) + u64::from(state.made);
            let Some(found) = caches.admit(request, state, running, alone) else { break };
            waiting.pop_front();
            // Caches that came with a request are lost where it is put back.
            let first = state.tries == 0;
            told.found += if first { found } else { 0 };
            let at = if engine.reads || !first { found } else { to - 1 };
            reading.push_back(Reading { request, at, to });
        }
        if running == 0 && reading.is_empty() {
            let Some(arrival) = requests.arrival_s.get(next) else { break };
            told.idle_j += (arrival - now) * engine.idle_w;
            told.window.wait((arrival.min(last) - now.max(warm)).max(0.0), engine.idle_w);
            now = *arrival;
            continue;
        }
        // One token for each that runs, prompts in the rest of the budget.
        let decodes = engine.chunked || !engine.reads || reading.is_empty();
        let decoding = if decodes { running } else { 0 };
        let mut budget = engine.token_budget.saturating_sub(decoding).max(u64::from(decoding == 0));
        let (mut read, mut finished) = (0, 0);
        let (mut attend_s, mut attend_j) = (0.0, 0.0);
        lanes.fill(0);
        for one in &mut reading {
            work += lanes.len();
            let left = one.to - one.at;
            if budget == 0 || (!engine.chunked && left > budget && read > 0) {
                break;
            }
            let part = if engine.chunked { left.min(budget) } else { left };
            let (seconds, joules) = steps.attending(one.at as f64, (one.at + part) as f64);
            one.at += part;
            budget = budget.saturating_sub(part);
            read += part;
            if let Some(least) = lanes.iter_mut().min() {
                *least += part;
            }
            (attend_s, attend_j) = (attend_s + seconds, attend_j + joules);
            finished += usize::from(one.at == one.to);
        }
        let context = seen as f64 / decoding.max(1) as f64;
        let (seconds, joules) = steps.of(decoding as f64, context, read as f64, (decoding + finished as u64) as f64);
        // Others wait for the lane that reads most.
        let fullest = lanes.iter().max().copied().unwrap_or(0).saturating_mul(lanes.len() as u64);
        let longer = if fullest > read {
            steps.of(decoding as f64, context, fullest as f64, (decoding + finished as u64) as f64).0 - seconds
        } else {
            0.0
        };
        let (seconds, joules) = (seconds + longer + attend_s, joules + longer * engine.idle_w + attend_j);
        if now >= warm && now < last {
            told.window.add(seconds, joules, decoding + finished as u64, running);
        }
        now += seconds;
        told.steps += 1;
        told.busy_s += seconds;
        told.joules += joules;
        held_time += seconds * caches.held as f64;
        ran += seconds * running as f64;
        decoded += u64::from(decodes);
        caches.held += decoding;
        seen += decoding;
        while let Some(&Reverse((last, request, of))) = ending.peek() {
            if last > decoded {
                break;
            }
            ending.pop();
            let state = &mut states[request];
            if of != state.tries {
                continue;
            }
            let length = u64::from(requests.input[request]) + u64::from(requests.output[request]) - 1;
            running -= 1;
            seen -= length;
            state.done = true;
            caches.release(state, length);
            told.done_s[request] = now - requests.arrival_s[request];
        }
        for one in reading.drain(..finished) {
            let (request, state) = (one.request, &mut states[one.request]);
            if told.first_s[request].is_nan() {
                told.first_s[request] = now - requests.arrival_s[request];
            }
            caches.keep(request, state);
            state.made += 1;
            let left = requests.output[request] - state.made;
            if left == 0 {
                state.done = true;
                caches.release(state, one.to);
                told.done_s[request] = now - requests.arrival_s[request];
            } else {
                running += 1;
                seen += one.to;
                state.begun = decoded;
                ending.push(Reverse((decoded + u64::from(left), request, state.tries)));
                order.push(request);
            }
        }
        while caches.held + running > engine.cache_tokens && running > 1 {
            let Some(request) = order.pop() else { break };
            let state = &mut states[request];
            if state.done {
                continue;
            }
            state.made += (decoded - state.begun) as u32;
            let length = u64::from(requests.input[request]) + u64::from(state.made) - 1;
            running -= 1;
            seen -= length;
            caches.release(state, length);
            state.tries += 1;
            told.preempted += 1;
            waiting.push_front(request);
        }
        caches.shrink();
        if order.len() > 4 * (running as usize + 64) {
            order.retain(|request| !states[*request].done);
        }
    }
    told.span_s = now - started;
    told.joules += told.idle_j;
    told.mean_held = held_time / told.span_s.max(f64::MIN_POSITIVE);
    told.mean_running = ran / told.span_s.max(f64::MIN_POSITIVE);
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(steps: &Steps, engine: Engine, requests: Requests) -> Replayed {
        super::replay(steps, engine, requests).unwrap()
    }

    fn free() -> Steps {
        let (sequences, contexts, decode_s, decode_j) = (vec![1.0], vec![1.0], vec![0.0], vec![0.0]);
        Steps { sequences, contexts, decode_s, decode_j, ..Steps::default() }
    }

    fn flat(seconds: f64, joules: f64) -> Steps {
        Steps { tokens: vec![1.0], base_s: vec![seconds], base_j: vec![joules], ..free() }
    }

    const NONE: Engine = Engine {
        most_running: 0,
        token_budget: 0,
        cache_tokens: 0,
        chunked: true,
        reads: true,
        block_tokens: 0,
        found_share: 0.0,
        lanes: 1,
        idle_w: 10.0,
        warm_s: 0.0,
    };

    const ENGINE: Engine = Engine {
        most_running: 8,
        token_budget: 64,
        cache_tokens: 1000,
        chunked: true,
        reads: true,
        block_tokens: 16,
        ..NONE
    };

    fn known<'a>(arrival_s: &'a [f64], input: &'a [u32], output: &'a [u32]) -> Requests<'a> {
        Requests { arrival_s, input, output, blocks: &[] }
    }

    #[test]
    fn one_request_alone() {
        let told = replay(&flat(0.5, 2.0), ENGINE, known(&[1.0], &[100], &[5]));
        // Two steps read the prompt, the second makes the first token; four more make the others.
        assert_eq!((told.steps, told.first_s[0], told.done_s[0], told.joules), (6, 1.0, 3.0, 12.0));
    }

    #[test]
    fn whole_prompts_stop_decoding() {
        let engine = Engine { chunked: false, ..ENGINE };
        let told = replay(&flat(1.0, 2.0), engine, known(&[0.0, 1.5], &[10, 200], &[4, 1]));
        // Steps: read the first, a token, read the second whole, two more tokens.
        assert_eq!((told.steps, told.done_s[0], told.done_s[1]), (5, 5.0, 1.5));
    }

    #[test]
    fn caches_that_come_are_not_read() {
        let engine = Engine { reads: false, ..ENGINE };
        let told = replay(&flat(1.0, 2.0), engine, known(&[0.0], &[500], &[3]));
        assert_eq!((told.steps, told.done_s[0]), (3, 3.0));
    }

    #[test]
    fn a_prompt_is_read_on_one_lane() {
        let tokens = |lanes| {
            let engine = Engine { lanes, token_budget: 1000, ..ENGINE };
            let steps = Steps { tokens: vec![0.0, 1.0], base_s: vec![0.0, 1.0], base_j: vec![0.0, 1.0], ..free() };
            replay(&steps, engine, known(&[0.0, 0.0], &[100, 60], &[1, 1])).first_s[1]
        };
        assert_eq!((tokens(1), tokens(2), tokens(4)), (160.0, 200.0, 400.0));
    }

    #[test]
    fn windows_leave_out_the_ends() {
        let engine = Engine { warm_s: 1.5, ..ENGINE };
        let told = replay(&flat(1.0, 2.0), engine, known(&[0.0, 4.0], &[10, 10], &[3, 5]));
        assert_eq!((told.window.seconds, told.window.made, told.window.joules), (2.0, 1, 12.0));
    }

    #[test]
    fn waiting_costs_idle_watts() {
        let told = replay(&flat(1.0, 2.0), ENGINE, known(&[0.0, 10.0], &[10, 10], &[1, 1]));
        assert_eq!((told.steps, told.idle_j, told.joules, told.span_s), (2, 90.0, 94.0, 11.0));
    }

    #[test]
    fn prefixes_are_found_until_their_room_is_needed() {
        let prompts: [&[u32]; 4] = [&[0, 1, 2, 3], &[0, 1, 9], &[4, 5, 6, 7], &[0, 1, 2, 3]];
        let arrivals = [0.0, 10.0, 20.0, 30.0];
        let requests = Requests { arrival_s: &arrivals, input: &[65; 4], output: &[1; 4], blocks: &prompts };
        assert_eq!(replay(&flat(1.0, 0.0), ENGINE, requests).found, 2 * 16 + 4 * 16);
        let small = Engine { cache_tokens: 70, ..ENGINE };
        assert_eq!(replay(&flat(1.0, 0.0), small, requests).found, 2 * 16);
    }

    #[test]
    fn all_are_served_and_caches_never_hold_more() {
        let count = 500;
        let arrivals: Vec<f64> = (0..count).map(|i| f64::from(i) * 0.05).collect();
        let input: Vec<u32> = (0..count as u32).map(|i| 1 + (i * 37) % 150).collect();
        let output: Vec<u32> = (0..count as u32).map(|i| 1 + (i * 53) % 200).collect();
        let blocks: Vec<Vec<u32>> =
            (0..count as u32).map(|i| (0..(i * 37) % 150 / 16).map(|k| i % 7 + 7 * k).collect()).collect();
        let told_blocks: Vec<&[u32]> = blocks.iter().map(Vec::as_slice).collect();
        for (chunked, blocks) in [(true, &[] as &[&[u32]]), (false, &[]), (true, &told_blocks), (false, &told_blocks)] {
            let requests = Requests { arrival_s: &arrivals, input: &input, output: &output, blocks };
            let told = replay(&flat(0.01, 1.0), Engine { chunked, ..ENGINE }, requests);
            assert!(told.done_s.iter().all(|done| done.is_finite()));
            assert!(told.first_s.iter().zip(&told.done_s).all(|(first, done)| first <= done && *first > 0.0));
            assert!(told.preempted > 0);
            assert_eq!((told.refused, told.found > 0), (0, !blocks.is_empty()));
            assert!(told.mean_held < 1000.0 && told.mean_running <= 8.0);
        }
    }
}
