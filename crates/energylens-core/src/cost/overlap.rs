//! A kernel in stages, each stage's collective beside the next stage's compute.

use super::lanes::Lane;

/// `t = C + (S−1)·max(C, R) + R`, as (seconds of the kernel, exposed seconds of the collective).
#[inline(always)]
pub fn staged<const L: usize>(stages: f64, compute: &Lane<L>, collective: &Lane<L>) -> (Lane<L>, Lane<L>) {
    let (mut kernel, mut exposed) = ([0.0; L], [0.0; L]);
    for i in 0..L {
        let (c, r) = (compute[i], collective[i]);
        let both = if c > r { c } else { r };
        kernel[i] = stages * c;
        exposed[i] = (stages - 1.0) * (both - c) + r;
    }
    (kernel, exposed)
}
