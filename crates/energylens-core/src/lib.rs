//! Predicts the latency and energy of serving a language model.
//!
//! In reading order: a [`input::plan`] is what a person wrote; [`einsum`] reads its equations; [`graph`] is the model they
//! make; [`hardware`] the GPUs; [`routing`] how tokens meet experts; [`lowering`] resolves a model on a GPU type over a mesh
//! into kernels with constants; [`cost`] gives seconds and joules of kernels and collectives; [`batch`] runs phases of a
//! batch through the pipeline, with its results by name; [`serving`] replays requests one by one; [`engine`] evaluates
//! points of a space; [`reduce`] keeps the best; [`search`] varies and ranks them; [`explain`] names each operation's part.
//! [`numeric`] is arithmetic on lanes, [`system`] memory, caches, interruption and forked processes.
#![deny(unsafe_code)]

pub mod batch;
pub mod cost;
pub mod einsum;
pub mod engine;
pub mod error;
pub mod explain;
pub mod graph;
pub mod hardware;
pub mod input;
pub mod lowering;
pub mod numeric;
pub mod phase;
pub mod reduce;
pub mod routing;
pub mod search;
pub mod serving;
pub mod system;
