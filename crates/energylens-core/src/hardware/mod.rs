//! GPU types: peaks, memory, links, clocks, and the coefficients fitted to measurements of their kernels and collectives.

pub mod clock;
pub mod collectives;
pub mod dtype;
pub mod kernels;
pub mod link;
mod locked;
pub mod profile;
pub mod uncertainty;
