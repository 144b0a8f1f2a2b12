//! Predicts the latency and energy of serving a language model.
//!
//! In reading order: a [`input::plan`] is what a user wrote; [`einsum`] reads its equations; [`graph`] is the model they
//! make; [`hardware`] the GPUs; [`routing`] how tokens load experts; [`lowering`] resolves a model on a GPU type over a mesh
//! into kernels with constants; [`cost`] gives seconds and joules of kernels and collectives; [`batch`] runs the two
//! [`phase`]s of a batch through the pipeline, with results by column; [`serving`] replays requests one by one; [`engine`]
//! evaluates points of a space; [`reduce`] selects among them; [`search`] evolves them; [`explain`] breaks a point down by
//! operation. [`numeric`] is arithmetic on lanes, [`system`] memory, caches, interruption and forked processes.
//!
//! `tests/test_core_architecture.py` holds the order of these rooms, in which a room uses those before it only. Equations are
//! those of `docs/physics.md`.
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
