//! Seconds and joules of a step, interpolated in a grid.

/// Seconds and joules of a step of an engine, all its GPUs together; linear between grid lines.
#[derive(Clone, Debug, Default)]
pub struct StepTable {
    /// Tokens processed in a step, rising.
    pub tokens: Vec<f64>,
    /// Seconds of a step of so many tokens, without attention.
    pub base_s: Vec<f64>,
    /// Joules alike.
    pub base_j: Vec<f64>,
    /// Sequences that decode, rising.
    pub sequences: Vec<f64>,
    /// Their mean contexts, rising.
    pub contexts: Vec<f64>,
    /// Seconds of their attention, by sequences, then by context.
    pub decode_s: Vec<f64>,
    /// Joules alike.
    pub decode_j: Vec<f64>,
    /// Seconds for each token that a step samples.
    pub sample_s: f64,
    /// Joules alike.
    pub sample_j: f64,
    /// Lengths of prompts, rising.
    pub lengths: Vec<f64>,
    /// Seconds of attention of a prompt token: the mean over a prompt of such a length.
    pub attend_s: Vec<f64>,
    /// Joules alike.
    pub attend_j: Vec<f64>,
}

/// Where in a rising list a value lies: the line before it, the next, and the part of the way between; beyond the last line it
/// extrapolates, before the first it stays there.
fn between(list: &[f64], value: f64) -> (usize, usize, f64) {
    let at = list.partition_point(|line| *line <= value).saturating_sub(1).min(list.len().saturating_sub(2));
    let next = (at + 1).min(list.len().saturating_sub(1));
    let part = if next > at { (value - list[at]) / (list[next] - list[at]) } else { 0.0 };
    (at, next, part.max(0.0))
}

impl StepTable {
    /// Seconds and joules of a step that decodes so many sequences at a mean context, reads so many prompt tokens, and samples
    /// so many output tokens; without the attention of the prompts.
    pub fn cost(&self, sequences: f64, context: f64, read: f64, sampled: f64) -> (f64, f64) {
        let (at, next, part) = between(&self.tokens, sequences + read);
        let base = |values: &[f64]| values[at] + part * (values[next] - values[at]);
        let (mut seconds, mut joules) = (base(&self.base_s), base(&self.base_j));
        if sequences > 0.0 {
            let ((i, down, a), (j, right, b)) = (between(&self.sequences, sequences), between(&self.contexts, context));
            let wide = self.contexts.len();
            let mix = |values: &[f64]| {
                let row = |i: usize| values[i * wide + j] + b * (values[i * wide + right] - values[i * wide + j]);
                row(i) + a * (row(down) - row(i))
            };
            seconds += mix(&self.decode_s);
            joules += mix(&self.decode_j);
        }
        (seconds + sampled * self.sample_s, joules + sampled * self.sample_j)
    }

    /// Seconds and joules of the attention of a prompt's first tokens.
    fn attention_up_to(&self, tokens: f64) -> (f64, f64) {
        if self.lengths.is_empty() {
            return (0.0, 0.0);
        }
        let (at, next, part) = between(&self.lengths, tokens);
        let mean = |values: &[f64]| tokens * (values[at] + part * (values[next] - values[at]));
        (mean(&self.attend_s), mean(&self.attend_j))
    }

    /// Seconds and joules of the attention of tokens `from` to `to` of a prompt.
    pub fn prompt_attention(&self, from: f64, to: f64) -> (f64, f64) {
        let (before, after) = (self.attention_up_to(from), self.attention_up_to(to));
        ((after.0 - before.0).max(0.0), (after.1 - before.1).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_met_and_mixed() {
        let steps = StepTable {
            tokens: vec![1.0, 3.0],
            base_s: vec![1.0, 2.0],
            base_j: vec![0.0; 2],
            sequences: vec![1.0, 3.0],
            contexts: vec![10.0, 30.0],
            decode_s: vec![0.0, 1.0, 2.0, 3.0],
            decode_j: vec![0.0; 4],
            sample_s: 0.5,
            ..StepTable::default()
        };
        assert_eq!(steps.cost(1.0, 10.0, 0.0, 0.0).0, 1.0);
        assert_eq!(steps.cost(3.0, 30.0, 0.0, 0.0).0, 5.0);
        assert_eq!(steps.cost(2.0, 20.0, 1.0, 2.0).0, 4.5);
        assert_eq!(steps.cost(0.0, 0.0, 5.0, 0.0).0, 3.0);
    }

    #[test]
    fn attention_of_a_prompt_is_the_sum_over_its_chunks() {
        let steps = StepTable {
            lengths: vec![0.0, 100.0, 1000.0],
            attend_s: vec![0.0, 1.0, 10.0],
            attend_j: vec![0.0; 3],
            ..StepTable::default()
        };
        let at_once = steps.prompt_attention(0.0, 700.0).0;
        let parts = steps.prompt_attention(0.0, 300.0).0 + steps.prompt_attention(300.0, 700.0).0;
        assert!((at_once - 4900.0).abs() < 1e-9 && (at_once - parts).abs() < 1e-9);
    }
}
