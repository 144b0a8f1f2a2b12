//! What a plan says, as it is read: the canonical JSON, and how a point runs.

pub mod plan;
pub mod run_options;
