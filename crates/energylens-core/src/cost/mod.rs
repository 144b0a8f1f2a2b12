//! Seconds and joules of kernels and collectives, many points at a time.

pub mod attention;
pub mod collective;
pub mod elementwise;
pub mod env;
pub mod gemm;
pub mod kernel;
pub mod overlap;
pub mod power;
pub mod program;
