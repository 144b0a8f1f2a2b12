//! What a replay gives back.

/// What happened between warming up and the last arrival: the part of a replay in steady state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Its seconds.
    pub seconds: f64,
    /// Joules of steps and of waiting.
    pub joules: f64,
    /// Of these, those of waiting.
    pub idle_j: f64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Seconds with any request running.
    pub busy_s: f64,
    /// Seconds of decoding, summed over the requests.
    pub request_s: f64,
}

impl Window {
    /// Counts a step in which `running` requests decoded or waited to.
    pub(super) fn add_step(&mut self, seconds: f64, joules: f64, output_tokens: u64, running: u64) {
        self.seconds += seconds;
        self.busy_s += seconds;
        self.joules += joules;
        self.output_tokens += output_tokens;
        self.request_s += seconds * running as f64;
    }

    /// Counts seconds in which no request ran.
    pub(super) fn add_idle(&mut self, seconds: f64, watts: f64) {
        self.seconds += seconds;
        self.idle_j += seconds * watts;
        self.joules += seconds * watts;
    }
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Seconds from each arrival to its first token; NaN if rejected.
    pub first_s: Vec<f64>,
    /// Seconds from each arrival to its last token; NaN if rejected.
    pub done_s: Vec<f64>,
    /// Steps.
    pub steps: u64,
    /// Seconds from the first arrival to the last token.
    pub span_s: f64,
    /// Seconds with any request running.
    pub busy_s: f64,
    /// Joules of steps and of waiting.
    pub joules: f64,
    /// Of these, those of waiting.
    pub idle_j: f64,
    /// Mean tokens that requests hold in the KV cache over time, without prefixes that only the prefix cache holds.
    pub mean_held_tokens: f64,
    /// Mean requests that decode, over time.
    pub mean_running: f64,
    /// Without warming up and running out.
    pub window: Window,
    /// Prompt tokens that the prefix cache held at the first admission of their request.
    pub prefix_hit_tokens: u64,
    /// Preemptions: requests put back into the queue for want of cache, each counted as often as it was.
    pub preempted: u64,
    /// Requests longer than the whole KV cache, never run.
    pub rejected: u64,
}
