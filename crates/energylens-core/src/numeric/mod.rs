//! Arithmetic: lanes of points side by side, exact powers, polynomials of sizes, one copy of the hot loops for each instruction set.

pub mod exact;
pub mod lanes;
pub mod shape;
pub mod simd;
