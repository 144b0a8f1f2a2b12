//! A batch of requests: its passes through the pipeline, their seconds and joules, memory, results by column.

pub mod columns;
mod memory;
mod passes;
pub mod phase;
mod results;
pub mod serve;
