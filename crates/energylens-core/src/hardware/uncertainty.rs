//! How far predictions may be off, and the range of measurements behind them.

use serde::Deserialize;

/// Relative standard deviations: of joules by cause, and of all joules of a kind of model.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Uncertainty {
    /// FLOPs and on-chip bytes.
    pub compute: f64,
    /// Weight bytes.
    pub hbm_weights: f64,
    /// Cache bytes.
    pub hbm_kv: f64,
    /// Activation bytes.
    pub hbm_activations: f64,
    /// Collectives.
    pub communication: f64,
    /// Waiting power under kernels.
    #[serde(rename = "static")]
    pub fixed: f64,
    /// Waiting power under nothing.
    pub waiting: f64,
    /// Of every model.
    pub common: f64,
    /// Besides, of models with routed experts.
    pub routed: f64,
    /// Besides, of weights of 8 bits and fewer.
    pub narrow: f64,
}

impl Default for Uncertainty {
    /// Deviations assumed of a profile without measurements: a quarter, more for what varies most.
    fn default() -> Self {
        Self {
            compute: 0.25,
            hbm_weights: 0.25,
            hbm_kv: 0.25,
            hbm_activations: 0.25,
            communication: 0.5,
            fixed: 0.25,
            waiting: 0.5,
            common: 0.2,
            routed: 0.2,
            narrow: 0.2,
        }
    }
}

impl Uncertainty {
    /// Deviations that apply to all joules.
    pub fn others(&self) -> [f64; 3] {
        [self.common, self.routed, self.narrow]
    }

    /// Deviations by cause, in the order of [`crate::batch::phase::CAUSES`].
    pub fn causes(&self) -> [f64; 7] {
        [
            self.compute,
            self.hbm_weights,
            self.hbm_kv,
            self.hbm_activations,
            self.communication,
            self.fixed,
            self.waiting,
        ]
    }
}

/// The largest values that measurements behind the fits reach.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Range {
    /// Sequences of a batch.
    pub batch: f64,
    /// Tokens a sequence can see.
    pub context_tokens: f64,
    /// GPUs of an engine.
    pub gpus: f64,
}

impl Default for Range {
    fn default() -> Self {
        Self { batch: f64::INFINITY, context_tokens: f64::INFINITY, gpus: f64::INFINITY }
    }
}
