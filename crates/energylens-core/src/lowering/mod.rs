//! A model on a GPU over a mesh: every constant of its kernels, resolved once.

pub mod exchanges;
pub mod layouts;
pub mod mapping;
pub mod mesh;
pub mod phase;
pub mod timing;
