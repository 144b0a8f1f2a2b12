//! How a batch of requests is cut into passes through the pipeline.

use crate::batch::phase::Passes;
use crate::lowering::mapping::Mapping;
use crate::numeric::lanes::{LANES, Lane, ceiling};

/// Requests of a block of points, one batch to a lane.
#[derive(Clone, Debug)]
pub struct Requests<const L: usize = LANES> {
    /// Sequences in the engine.
    pub batch: Lane<L>,
    /// Prompt tokens of each sequence.
    pub prompt_tokens: Lane<L>,
    /// Output tokens of each sequence.
    pub output_tokens: Lane<L>,
}

/// Passes of prefill: each of as many prompts as the budget of tokens allows and spreading over the pipeline suggests
/// (Eq. 8.6).
#[inline(always)]
pub fn prefill_passes<const L: usize>(mapping: &Mapping, requests: &Requests<L>) -> Passes<L> {
    let mut passes = Passes {
        passes: [0.0; L],
        b: [0.0; L],
        fullest: [0.0; L],
        s: requests.prompt_tokens,
        t: requests.prompt_tokens,
        consecutive: true,
    };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    let cp = f64::from(mapping.mesh.cp);
    for i in 0..L {
        let sequences = ceiling(requests.batch[i] / dp);
        let budget = (mapping.constants.max_batched_tokens * cp / requests.prompt_tokens[i]).floor();
        let budget = if budget > 1.0 { budget } else { 1.0 };
        let spread = ceiling(sequences / pp);
        let fullest = if spread < budget { spread } else { budget };
        passes.fullest[i] = fullest;
        passes.passes[i] = ceiling(sequences / fullest);
        passes.b[i] = sequences / passes.passes[i];
    }
    passes
}

/// Mean visible tokens of a sequence over the decode steps; one output token, which needs no step, counts as two.
#[inline(always)]
pub fn context<const L: usize>(requests: &Requests<L>) -> Lane<L> {
    let mut t = [0.0; L];
    for i in 0..L {
        let output = requests.output_tokens[i];
        t[i] = requests.prompt_tokens[i] + 0.5 * if output > 2.0 { output } else { 2.0 };
    }
    t
}

/// Passes of a decode step over a context of `t` tokens: one for each pipeline stage, as far as there are sequences
/// (Eq. 8.8).
#[inline(always)]
pub fn decode_passes<const L: usize>(mapping: &Mapping, batch: &Lane<L>, t: &Lane<L>) -> Passes<L> {
    let mut passes =
        Passes { passes: [0.0; L], b: [0.0; L], fullest: [0.0; L], s: [1.0; L], t: *t, consecutive: false };
    let (dp, pp) = (f64::from(mapping.mesh.dp), f64::from(mapping.mesh.pp));
    for i in 0..L {
        let sequences = ceiling(batch[i] / dp);
        passes.passes[i] = if sequences < pp { sequences } else { pp };
        passes.b[i] = sequences / passes.passes[i];
    }
    passes
}
