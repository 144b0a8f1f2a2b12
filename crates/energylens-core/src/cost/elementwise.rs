//! Work outside the tensor cores: functions and products too thin for them.

use crate::numeric::lanes::{Basis, Lane};
use crate::numeric::shape::Poly;

/// Vector FLOPs of a kernel (Eq. 2.2) and the time of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vector {
    /// FLOPs of one GPU in one pass.
    pub flops: Poly,
    /// Seconds of one: the inverse of the vector peak of the SMs it may use.
    pub seconds_per_flop: f64,
}

impl Vector {
    /// Adds its seconds to `time` (second term of Eq. 5.4).
    #[inline(always)]
    pub fn add<const L: usize>(&self, basis: &Basis<L>, time: &mut Lane<L>) {
        basis.add(&self.flops, self.seconds_per_flop, time);
    }
}
