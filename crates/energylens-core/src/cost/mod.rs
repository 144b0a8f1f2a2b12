//! Seconds and joules of kernels and collectives, many points at a time (sections 5 to 8 and 11 of docs/physics.md).
//!
//! `gemm`, `attention` and `elementwise` give the seconds of one kind of work, `collective` those of a message, `overlap`
//! those of both at once. `timing` puts them together for the time of one kernel, `kernel` adds its joules, `program` sums them for a phase of a mapping, and
//! `power` holds a stage to the limits of its board. `env` is the input of all: the tokens of a block of points.

pub mod attention;
pub mod collective;
pub mod elementwise;
pub mod env;
pub mod gemm;
pub mod kernel;
pub mod nonlinear;
pub mod overlap;
pub mod power;
pub mod program;
pub mod timing;
