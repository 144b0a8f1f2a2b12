//! What a replay starts from: the requests, and how the engine batches them.

/// Requests in the order of their arrivals.
#[derive(Clone, Copy, Debug)]
pub struct Requests<'a> {
    /// Seconds at which each arrives, rising.
    pub arrival_s: &'a [f64],
    /// Prompt tokens, at least one.
    pub prompt_tokens: &'a [u32],
    /// Output tokens, at least one.
    pub output_tokens: &'a [u32],
    /// Prefix blocks that each prompt begins with, numbered from 0; empty if prefixes are not known.
    pub blocks: &'a [&'a [u32]],
}

/// How an engine batches.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// Requests that may run at once.
    pub most_running: usize,
    /// Tokens processed in a step, of prompts and of decoding together.
    pub token_budget: u64,
    /// Tokens that its KV cache holds.
    pub cache_tokens: u64,
    /// Whether prompts are read in chunks alongside decoding; else whole, while decoding waits.
    pub chunked: bool,
    /// Whether prompts are read here; else their caches come with the requests (a decode pool), and a first step makes the
    /// next token at once.
    pub reads: bool,
    /// Tokens of a prefix block.
    pub block_tokens: u64,
    /// Share of each prompt that the prefix cache holds, where blocks are not known.
    pub prefix_hit_share: f64,
    /// Data-parallel ranks times pipeline stages: a prompt is read on one of these lanes.
    pub lanes: usize,
    /// Watts while no request runs, of all GPUs.
    pub idle_w: f64,
    /// Seconds after the first arrival from which the window counts; it ends with the last arrival.
    pub warm_s: f64,
}
