//! Sizes as polynomials in the step's variables: b sequences, s new tokens, t visible tokens.

use std::fmt;

/// A sum of monomials `c·bⁱ·sʲ·tᵏ` with exponents 0 or 1; most sizes are a single one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Poly {
    terms: Vec<(u8, f64)>,
}

/// Exponent bit of b, the sequences of a pass.
pub const B: u8 = 1;
/// Exponent bit of s, the new tokens of a sequence.
pub const S: u8 = 2;
/// Exponent bit of t, the tokens a new token can see.
pub const T: u8 = 4;
/// Number of monomials.
pub const MONOMIALS: usize = 8;

impl Poly {
    /// The single monomial `c·(bits)`; zero if c is zero.
    pub fn monomial(bits: u8, c: f64) -> Self {
        Self { terms: if c == 0.0 { Vec::new() } else { vec![(bits, c)] } }
    }

    /// A constant.
    pub fn constant(c: f64) -> Self {
        Self::monomial(0, c)
    }

    /// Adds another polynomial.
    pub fn add(&mut self, other: &Self) {
        for &(bits, c) in &other.terms {
            match self.terms.iter_mut().find(|(have, _)| *have == bits) {
                Some((_, sum)) => *sum += c,
                None => self.terms.push((bits, c)),
            }
        }
        self.terms.sort_by_key(|&(bits, _)| bits);
    }

    /// The same, times a number.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let terms = self.terms.iter().map(|&(bits, c)| (bits, c * factor)).filter(|&(_, c)| c != 0.0).collect();
        Self { terms }
    }

    /// Of so many parts, each with that share of b: what does not grow with b counts in each.
    #[must_use]
    pub fn in_parts(&self, parts: f64) -> Self {
        let count = |bits: u8| if bits & B == 0 { parts } else { 1.0 };
        Self { terms: self.terms.iter().map(|&(bits, c)| (bits, c * count(bits))).collect() }
    }

    /// Its terms: exponent bits and coefficient, in ascending order of bits.
    pub fn terms(&self) -> &[(u8, f64)] {
        &self.terms
    }

    /// Bytes of its terms.
    pub fn bytes(&self) -> usize {
        self.terms.capacity() * size_of::<(u8, f64)>()
    }

    /// Whether it depends on a variable, given by its bit.
    pub fn depends_on(&self, bit: u8) -> bool {
        self.terms.iter().any(|(bits, _)| bits & bit != 0)
    }

    /// Its value if it depends on no variable.
    pub fn as_constant(&self) -> Option<f64> {
        match self.terms.as_slice() {
            [] => Some(0.0),
            [(0, c)] => Some(*c),
            _ => None,
        }
    }

    /// Its value for given monomials.
    pub fn at(&self, monomials: &[f64; MONOMIALS]) -> f64 {
        self.terms.iter().map(|&(bits, c)| c * monomials[usize::from(bits)]).sum()
    }
}

impl fmt::Display for Poly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "0");
        }
        for (i, &(bits, c)) in self.terms.iter().enumerate() {
            let separator = if i == 0 { "" } else { " + " };
            let names = [(B, "b"), (S, "s"), (T, "t")];
            let factors: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, n)| *n).collect();
            let number = if c.fract() == 0.0 && c.abs() < 1e15 { format!("{c:.0}") } else { format!("{c:.6e}") };
            write!(f, "{separator}{}", std::iter::once(number.as_str()).chain(factors).collect::<Vec<_>>().join("·"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_like_terms() {
        let mut p = Poly::monomial(B | S, 2.0);
        p.add(&Poly::constant(1.0));
        p.add(&Poly::monomial(B | S, 3.0));
        assert_eq!(p.to_string(), "1 + 5·b·s");
        assert_eq!(p.at(&[1.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0]), 36.0);
    }
}
