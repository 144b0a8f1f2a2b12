//! A kernel in stages, each stage's collective beside the next stage's compute.

use super::lanes::{LANES, Lane, ZERO};

/// `t = C + (S−1)·max(C, R) + R`, as (seconds of the kernel, exposed seconds of the collective).
#[inline(always)]
pub fn staged(stages: f64, compute: &Lane, collective: &Lane) -> (Lane, Lane) {
    let (mut kernel, mut exposed) = (ZERO, ZERO);
    for i in 0..LANES {
        let (c, r) = (compute[i], collective[i]);
        let both = if c > r { c } else { r };
        kernel[i] = stages * c;
        exposed[i] = (stages - 1.0) * (both - c) + r;
    }
    (kernel, exposed)
}
