//! One GPU type: its peaks, its coefficients, its number formats.

pub mod clock;
pub mod curve;
pub mod dtype;
pub mod profile;
