//! A batch of requests that start together: phases through the pipeline, results by name.

pub mod columns;
pub mod phase;
pub mod serve;
