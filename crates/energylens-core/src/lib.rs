//! Predicts the latency and energy of serving a language model.
//!
//! In reading order: a [`plan`] is what a person wrote; [`einsum`] reads its equations; [`graph`] is the model they make;
//! [`hardware`] the GPUs; [`mesh`] how ranks are split; [`mapping`] a model on a GPU type over a mesh, all constants hoisted;
//! [`cost`] seconds and joules of kernels and collectives; [`step`] one pass through the pipeline; [`serving`] a batch of
//! requests, whose results are [`columns`]; [`simd`] a copy of it for each instruction set; [`space`] points as integers; [`engine`] walks them; [`reduce`] keeps the best; [`explain`] says it in words.
//! Work [`stop`]s where its caller wants that, and what is kept is kept [`per_process`].
#![deny(unsafe_code)]

pub mod cache;
pub mod columns;
pub mod cost;
pub mod einsum;
pub mod engine;
pub mod error;
pub mod explain;
pub mod graph;
pub mod hardware;
pub mod mapping;
pub mod memory;
pub mod mesh;
pub mod nsga;
pub mod per_process;
pub mod plan;
pub mod reduce;
pub mod replay;
pub mod routing;
pub mod running;
pub mod serving;
pub mod simd;
pub mod space;
pub mod step;
pub mod stop;
