//! Requests served one by one: continuous batching replayed, prefixes cached.

pub mod prefix;
pub mod replay;
pub mod steps;
