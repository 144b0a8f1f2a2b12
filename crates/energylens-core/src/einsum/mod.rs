//! Equations: text to tree (`parse`), tree to sizes (`shape`), sizes to work (`count`).

pub mod count;
pub mod function;
pub mod parse;

pub use function::Function;
pub use parse::{Equation, Factor, Rank, TensorRef};
