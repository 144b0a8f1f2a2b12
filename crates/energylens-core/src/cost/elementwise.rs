//! Work outside the tensor cores.

use crate::numeric::lanes::{Basis, Lane};
use crate::numeric::shape::Poly;

/// Vector FLOPs of a kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vector {
    /// FLOPs.
    pub flops: Poly,
    /// Seconds of one.
    pub seconds_per_flop: f64,
}

impl Vector {
    /// Adds its compute time to `time`.
    #[inline(always)]
    pub fn add<const L: usize>(&self, basis: &Basis<L>, time: &mut Lane<L>) {
        basis.add(&self.flops, self.seconds_per_flop, time);
    }
}
