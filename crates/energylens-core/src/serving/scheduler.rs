//! The scheduler of an engine: continuous batching, step by step.
//!
//! Each step gives a token to every running request and reads prompts, in the order of their arrival, with the rest of its
//! token budget. Where the KV cache runs out, the latest request goes back to the head of the queue and is computed anew, as
//! vLLM preempts. `tests/oracle/batching.py` is the same in plain Python.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::engine::{Engine, Requests};
use super::kv_cache::KvCache;
use super::outcome::Replayed;
use super::step_table::StepTable;
use crate::error::Problem;
use crate::system::memory::filled;
use crate::system::stop::{WORK_PER_CHECK, stopped};

/// Work of a step besides its lanes and the prompts it reads, in the units of [`WORK_PER_CHECK`].
const WORK_PER_STEP: usize = 16;

/// Finished requests stay in the list of running ones until there are so many entries for each that runs ...
const ENTRIES_PER_RUNNING: usize = 4;
/// ... and this many running requests more, so that sweeping them out costs a constant time each.
const ENTRIES_ALLOWED: usize = 64;

/// A request whose prompt is being read.
#[derive(Clone, Copy, Debug)]
struct Prefill {
    request: usize,
    /// Tokens read so far, or taken from the prefix cache.
    read_tokens: u64,
    /// Tokens to be read in all: the prompt, and outputs made before a preemption.
    tokens: u64,
}

/// Progress of a request.
#[derive(Clone, Debug, Default)]
struct Progress {
    output_tokens: u32,
    preemptions: u32,
    /// Decode steps of the engine at the time when this request began to decode.
    decoding_since: u64,
    /// Prefix blocks it holds.
    blocks: Vec<u32>,
    finished: bool,
}

/// Prompts read in one step.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    tokens: u64,
    /// Prompts read to their end: the first of the queue.
    finished: usize,
    /// What the tokens attend to.
    attention_s: f64,
    attention_j: f64,
}

/// The scheduler of one engine, in the middle of a replay.
pub(super) struct Scheduler<'a> {
    steps: &'a StepTable,
    engine: Engine,
    requests: Requests<'a>,
    cache: KvCache<'a>,
    progress: Vec<Progress>,
    /// First request that has not arrived yet.
    next: usize,
    waiting: VecDeque<usize>,
    reading: VecDeque<Prefill>,
    /// When running requests end: the engine's decode step of their last token, the request, and its preemptions when it began;
    /// if it has been preempted since, the entry is stale.
    ends: BinaryHeap<Reverse<(u64, usize, u32)>>,
    /// Running requests in the order in which they began, some finished ones among them: the last is preempted first.
    started: Vec<usize>,
    /// Requests that decode.
    running: u64,
    /// Tokens that these attend to.
    context_tokens: u64,
    decode_steps: u64,
    now_s: f64,
    first_arrival_s: f64,
    window_begin_s: f64,
    last_arrival_s: f64,
    /// Tokens that each lane reads in the step at hand.
    lane_tokens: Vec<u64>,
    /// Held tokens and decoding requests, each summed over the seconds.
    held_token_s: f64,
    running_s: f64,
    work: usize,
    outcome: Replayed,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(steps: &'a StepTable, engine: Engine, requests: Requests<'a>) -> Result<Self, Problem> {
        let count = requests.arrival_s.len();
        let what = format!("a replay of {count} requests");
        let outcome = Replayed {
            first_s: filled(f64::NAN, count, &what)?,
            done_s: filled(f64::NAN, count, &what)?,
            ..Replayed::default()
        };
        let first_arrival_s = requests.arrival_s.first().copied().unwrap_or(0.0);
        Ok(Self {
            steps,
            engine,
            requests,
            cache: KvCache::new(engine, requests)?,
            progress: filled(Progress::default(), count, &what)?,
            next: 0,
            waiting: VecDeque::new(),
            reading: VecDeque::new(),
            ends: BinaryHeap::new(),
            started: Vec::new(),
            running: 0,
            context_tokens: 0,
            decode_steps: 0,
            now_s: first_arrival_s,
            first_arrival_s,
            window_begin_s: first_arrival_s + engine.warm_s,
            last_arrival_s: requests.arrival_s.last().copied().unwrap_or(0.0),
            lane_tokens: vec![0; engine.lanes.max(1)],
            held_token_s: 0.0,
            running_s: 0.0,
            work: 0,
            outcome,
        })
    }

    pub(super) fn run(mut self) -> Replayed {
        while !self.interrupted() {
            self.receive();
            self.admit();
            if self.running == 0 && self.reading.is_empty() {
                if self.idle() {
                    continue;
                }
                break;
            }
            let finished_prompts = self.run_step();
            self.finish(finished_prompts);
            self.preempt();
        }
        self.outcome()
    }

    /// Whether the caller no longer wants the replay.
    fn interrupted(&mut self) -> bool {
        self.work += self.lane_tokens.len() + self.reading.len() + WORK_PER_STEP;
        if self.work <= WORK_PER_CHECK {
            return false;
        }
        self.work = 0;
        stopped()
    }

    /// Queues the requests that have arrived; those longer than the whole cache are rejected.
    fn receive(&mut self) {
        while let Some(arrival_s) = self.requests.arrival_s.get(self.next)
            && *arrival_s <= self.now_s
        {
            if self.length(self.next) > self.engine.cache_tokens {
                self.outcome.rejected += 1;
            } else {
                self.waiting.push_back(self.next);
            }
            self.next += 1;
        }
    }

    /// Prompt and output tokens of a request.
    fn length(&self, request: usize) -> u64 {
        u64::from(self.requests.prompt_tokens[request]) + u64::from(self.requests.output_tokens[request])
    }

    /// Begins to read the prompts of waiting requests, as many as there is cache for.
    fn admit(&mut self) {
        while let Some(&request) = self.waiting.front() {
            let nothing_runs = self.running == 0 && self.reading.is_empty();
            if self.running as usize + self.reading.len() >= self.engine.most_running {
                break;
            }
            let progress = &mut self.progress[request];
            let tokens = u64::from(self.requests.prompt_tokens[request]) + u64::from(progress.output_tokens);
            let admitted = self.cache.admit(request, tokens, self.running, nothing_runs);
            let Some((hit_tokens, blocks)) = admitted else { break };
            progress.blocks = blocks;
            self.waiting.pop_front();
            // A cache that came with its request is lost where the request is preempted: from then on it is read here.
            let first = progress.preemptions == 0;
            self.outcome.prefix_hit_tokens += if first { hit_tokens } else { 0 };
            let read_tokens = if self.engine.reads || !first { hit_tokens } else { tokens - 1 };
            self.reading.push_back(Prefill { request, read_tokens, tokens });
        }
    }

    /// Waits for the next arrival; false if there is none.
    fn idle(&mut self) -> bool {
        let Some(&arrival_s) = self.requests.arrival_s.get(self.next) else { return false };
        self.outcome.idle_j += (arrival_s - self.now_s) * self.engine.idle_w;
        let within_window_s = (arrival_s.min(self.last_arrival_s) - self.now_s.max(self.window_begin_s)).max(0.0);
        self.outcome.window.add_idle(within_window_s, self.engine.idle_w);
        self.now_s = arrival_s;
        true
    }

    /// Runs a step: one token for each request that decodes, and prompts in the rest of the budget. Returns how many prompts
    /// were read to their end.
    fn run_step(&mut self) -> usize {
        // Without chunks, a step either decodes or reads.
        let decodes = self.engine.chunked || !self.engine.reads || self.reading.is_empty();
        let decoding = if decodes { self.running } else { 0 };
        let budget = self.engine.token_budget.saturating_sub(decoding).max(u64::from(decoding == 0));
        let reading = self.read_prompts(budget);
        let output_tokens = decoding + reading.finished as u64;
        let (seconds, joules) = self.step_cost(decoding, output_tokens, reading);
        if self.now_s >= self.window_begin_s && self.now_s < self.last_arrival_s {
            self.outcome.window.add_step(seconds, joules, output_tokens, self.running);
        }
        self.now_s += seconds;
        self.outcome.steps += 1;
        self.outcome.busy_s += seconds;
        self.outcome.joules += joules;
        self.held_token_s += seconds * self.cache.held_tokens as f64;
        self.running_s += seconds * self.running as f64;
        self.decode_steps += u64::from(decodes);
        self.cache.held_tokens += decoding;
        self.context_tokens += decoding;
        reading.finished
    }

    /// Reads prompts with a budget of tokens, each on the lane that has the least to read.
    fn read_prompts(&mut self, mut budget: u64) -> Reading {
        let mut sum = Reading::default();
        self.lane_tokens.fill(0);
        for prefill in &mut self.reading {
            self.work += self.lane_tokens.len();
            let left = prefill.tokens - prefill.read_tokens;
            if budget == 0 || (!self.engine.chunked && left > budget && sum.tokens > 0) {
                break;
            }
            let chunk = if self.engine.chunked { left.min(budget) } else { left };
            let (from, to) = (prefill.read_tokens, prefill.read_tokens + chunk);
            let (seconds, joules) = self.steps.prompt_attention(from as f64, to as f64);
            prefill.read_tokens = to;
            budget = budget.saturating_sub(chunk);
            sum.tokens += chunk;
            if let Some(least) = self.lane_tokens.iter_mut().min() {
                *least += chunk;
            }
            (sum.attention_s, sum.attention_j) = (sum.attention_s + seconds, sum.attention_j + joules);
            sum.finished += usize::from(to == prefill.tokens);
        }
        sum
    }

    /// Seconds and joules of a step.
    fn step_cost(&self, decoding: u64, output_tokens: u64, reading: Reading) -> (f64, f64) {
        let context = self.context_tokens as f64 / decoding.max(1) as f64;
        let cost =
            |read_tokens: u64| self.steps.cost(decoding as f64, context, read_tokens as f64, output_tokens as f64);
        let (seconds, joules) = cost(reading.tokens);
        // All lanes wait for the one that reads the most: the step lasts as if each read as much as that one.
        let lanes = self.lane_tokens.len() as u64;
        let fullest = self.lane_tokens.iter().max().copied().unwrap_or(0).saturating_mul(lanes);
        let waiting_s = if fullest > reading.tokens { cost(fullest).0 - seconds } else { 0.0 };
        (seconds + waiting_s + reading.attention_s, joules + waiting_s * self.engine.idle_w + reading.attention_j)
    }

    /// Ends the requests that made their last token in this step, and lets those decode whose prompts are read.
    fn finish(&mut self, finished_prompts: usize) {
        while let Some(&Reverse((last_step, request, preemptions))) = self.ends.peek() {
            if last_step > self.decode_steps {
                break;
            }
            self.ends.pop();
            if preemptions == self.progress[request].preemptions {
                // The last token is never read.
                let tokens = self.length(request) - 1;
                self.running -= 1;
                self.context_tokens -= tokens;
                self.end(request, tokens);
            }
        }
        for _ in 0..finished_prompts {
            if let Some(prefill) = self.reading.pop_front() {
                self.start_decoding(prefill);
            }
        }
    }

    /// Ends a request that holds so many tokens.
    fn end(&mut self, request: usize, tokens: u64) {
        let progress = &mut self.progress[request];
        progress.finished = true;
        self.cache.release(&std::mem::take(&mut progress.blocks), tokens);
        self.outcome.done_s[request] = self.now_s - self.requests.arrival_s[request];
    }

    /// Counts the token that follows from a whole prompt, and decodes the others.
    fn start_decoding(&mut self, Prefill { request, tokens, .. }: Prefill) {
        if self.outcome.first_s[request].is_nan() {
            self.outcome.first_s[request] = self.now_s - self.requests.arrival_s[request];
        }
        let progress = &mut self.progress[request];
        self.cache.share(request, &mut progress.blocks);
        progress.output_tokens += 1;
        let left = self.requests.output_tokens[request] - progress.output_tokens;
        if left == 0 {
            self.end(request, tokens);
            return;
        }
        progress.decoding_since = self.decode_steps;
        self.ends.push(Reverse((self.decode_steps + u64::from(left), request, progress.preemptions)));
        self.started.push(request);
        self.running += 1;
        self.context_tokens += tokens;
    }

    /// Puts the latest requests back to the head of the queue until the next step fits into the cache.
    fn preempt(&mut self) {
        while self.cache.held_tokens + self.running > self.engine.cache_tokens && self.running > 1 {
            let Some(request) = self.started.pop() else { break };
            let progress = &mut self.progress[request];
            if progress.finished {
                continue;
            }
            progress.output_tokens += (self.decode_steps - progress.decoding_since) as u32;
            let tokens = u64::from(self.requests.prompt_tokens[request]) + u64::from(progress.output_tokens) - 1;
            progress.preemptions += 1;
            self.running -= 1;
            self.context_tokens -= tokens;
            self.cache.release(&std::mem::take(&mut progress.blocks), tokens);
            self.outcome.preempted += 1;
            self.waiting.push_front(request);
        }
        self.cache.evict();
        if self.started.len() > ENTRIES_PER_RUNNING * (self.running as usize + ENTRIES_ALLOWED) {
            let progress = &self.progress;
            self.started.retain(|request| !progress[*request].finished);
        }
    }

    /// Sums and means over the whole replay.
    fn outcome(mut self) -> Replayed {
        let span_s = self.now_s - self.first_arrival_s;
        self.outcome.span_s = span_s;
        self.outcome.joules += self.outcome.idle_j;
        self.outcome.mean_held_tokens = self.held_token_s / span_s.max(f64::MIN_POSITIVE);
        self.outcome.mean_running = self.running_s / span_s.max(f64::MIN_POSITIVE);
        self.outcome
    }
}
