//! How tokens choose experts, and what that loads on GPUs: laws, placements, and tables of both by number of tokens.

mod draw;
pub mod placement;
pub mod table;

use serde::Deserialize;

pub use placement::Placement;
pub use table::Table;

/// How popular experts are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", tag = "law", content = "value")]
pub enum Law {
    /// Every expert takes the same number of tokens, as no router does.
    Balanced,
    /// All alike; every token chooses for itself.
    #[default]
    Uniform,
    /// Weights drawn from a Gamma distribution of this shape: the smaller, the fewer experts a batch is about.
    Dirichlet(f64),
    /// Weights r^-s of the r-th most popular.
    Zipf(f64),
    /// Shares of tokens drawn from a density x^-α on 1 to 0.8·T, of T tokens (on 0.01 to 2 where there are no more choices
    /// than experts), as the measured kernel tables have them.
    PowerLaw(f64),
    /// Counted tokens of each expert, by layer.
    Counts(Vec<Vec<f64>>),
}

/// Experts, those a token chooses, and the GPUs they are dealt to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Experts.
    pub experts: usize,
    /// Different ones that a token chooses.
    pub active: usize,
    /// GPUs.
    pub gpus: usize,
}
