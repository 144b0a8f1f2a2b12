//! Lanes: the points of one block, side by side, so that the compiler can use vector units.

use crate::numeric::shape::{MONOMIALS, Poly};

/// Points evaluated together.
pub const LANES: usize = 64;

/// One value per point.
pub type Lane<const L: usize = LANES> = [f64; L];

/// A lane of zeros.
pub const ZERO: Lane = [0.0; LANES];

/// Relative slack of every ceiling, so that rounding never adds a tile.
const SLACK: f64 = 1.0 - 1e-12;

/// `ceil(x·(1 − 1e-12))` for `0 ≤ x < 2^51`, without a library call.
#[inline(always)]
pub fn ceiling(x: f64) -> f64 {
    const BIG: f64 = 4_503_599_627_370_496.0;
    let x = x * SLACK;
    let rounded = (x + BIG) - BIG;
    if rounded < x { rounded + 1.0 } else { rounded }
}

/// The values of all monomials in b, s, t.
#[derive(Clone, Debug)]
pub struct Basis<const L: usize = LANES>(pub [Lane<L>; MONOMIALS]);

impl<const L: usize> Basis<L> {
    /// Monomials of b, s and t, with `st` in place of `s·t`.
    pub fn new(b: &Lane<L>, s: &Lane<L>, t: &Lane<L>, st: &Lane<L>) -> Self {
        let mut basis = Self::NONE;
        basis.fill(b, s, t, st);
        basis
    }

    /// All zero but the constant.
    pub const NONE: Self = Self([[1.0; L], [0.0; L], [0.0; L], [0.0; L], [0.0; L], [0.0; L], [0.0; L], [0.0; L]]);

    /// Takes new values.
    #[inline(always)]
    pub fn fill(&mut self, b: &Lane<L>, s: &Lane<L>, t: &Lane<L>, st: &Lane<L>) {
        let u = &mut self.0;
        for i in 0..L {
            u[1][i] = b[i];
            u[2][i] = s[i];
            u[3][i] = b[i] * s[i];
            u[4][i] = t[i];
            u[5][i] = b[i] * t[i];
            u[6][i] = st[i];
            u[7][i] = b[i] * st[i];
        }
    }

    /// Writes the polynomial's values.
    #[inline(always)]
    pub fn set(&self, poly: &Poly, out: &mut Lane<L>) {
        match poly.terms().split_first() {
            None => *out = [0.0; L],
            Some((&(bits, c), rest)) => {
                let u = &self.0[usize::from(bits)];
                for i in 0..L {
                    out[i] = c * u[i];
                }
                for &(bits, c) in rest {
                    let u = &self.0[usize::from(bits)];
                    for i in 0..L {
                        out[i] += c * u[i];
                    }
                }
            }
        }
    }

    /// Adds `factor·poly` to `out`.
    #[inline(always)]
    pub fn add(&self, poly: &Poly, factor: f64, out: &mut Lane<L>) {
        for &(bits, c) in poly.terms() {
            let (u, c) = (&self.0[usize::from(bits)], c * factor);
            for i in 0..L {
                out[i] += c * u[i];
            }
        }
    }

    /// The polynomial's values.
    #[inline(always)]
    pub fn value(&self, poly: &Poly) -> Lane<L> {
        let mut out = [0.0; L];
        self.set(poly, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_is_a_ceiling() {
        for (x, want) in
            [(0.0, 0.0), (0.1, 1.0), (1.0, 1.0), (1.000_000_1, 2.0), (7.0 / 3.0 * 3.0, 7.0), (1e9 + 0.5, 1e9 + 1.0)]
        {
            assert_eq!(ceiling(x), want, "{x}");
        }
        assert_eq!(ceiling(264.0 * (1.0 / 132.0)), 2.0);
    }
}
