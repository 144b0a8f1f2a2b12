//! Requests served one by one: continuous batching replayed, prompt prefixes cached.

pub mod engine;
mod kv_cache;
pub mod outcome;
pub mod prefix;
pub mod replay;
mod scheduler;
pub mod step_table;
