//! From a model on a GPU type over a mesh to the constants of its kernels: everything that does not depend on batch and lengths.
//!
//! [`mesh`] says how ranks are split. [`context`] holds the inputs; from them [`timing`] derives seconds of kernels,
//! [`exchanges`] their collectives, [`kernel`] their costs, [`phase`] one phase of the model, [`memory`] its bytes.
//! [`layouts`] puts these together, [`mapping`] adds the power cap.

mod check;
mod context;
pub mod effective;
mod exchanges;
mod experts;
mod features;
mod kernel;
mod layouts;
pub mod mapping;
mod memory;
pub mod mesh;
mod parts;
mod phase;
mod stages;
mod timing;
