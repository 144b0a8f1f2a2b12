//! The machine the core runs on: memory budget, bounded caches, interruption, forked processes.

pub mod cache;
pub(crate) mod hash;
pub mod memory;
pub mod per_process;
pub mod stop;
