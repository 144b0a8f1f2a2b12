//! What kind of work an equation is: which ranks are rows, columns, depth and batch.

use std::collections::BTreeSet;

use super::{Equation, Factor, Rank};

/// The kind of work of one equation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A matrix product on the tensor cores.
    Matrix(MatrixRanks),
    /// Everything else, on the vector units.
    Vector,
}

/// Ranks of a matrix product, each in order of appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatrixRanks {
    /// In both factors and the result: independent products (I).
    pub batch: Vec<Rank>,
    /// In the left factor and the result only (M).
    pub rows: Vec<Rank>,
    /// In the right factor and the result only (N).
    pub columns: Vec<Rank>,
    /// Contracted: in a factor, not in the result (K).
    pub depth: Vec<Rank>,
}

/// Ranks a factor carries into the product: those of its largest argument, less what its function drops.
pub fn factor_ranks(factor: &Factor, result: &[Rank]) -> Vec<Rank> {
    let Some(largest) = factor.largest() else { return Vec::new() };
    if factor.function == Some(super::Function::Embed) {
        return result.to_vec();
    }
    let drops = factor.function.is_some_and(super::Function::drops_ranks);
    largest.ranks.iter().copied().filter(|rank| !drops || result.contains(rank)).collect()
}

/// All ranks of an equation, in order of appearance, those a function drops left out.
pub fn all_ranks(equation: &Equation) -> Vec<Rank> {
    let mut seen = BTreeSet::new();
    let factors = equation.factors.iter().flat_map(|f| factor_ranks(f, &equation.result.ranks));
    factors.chain(equation.result.ranks.iter().copied()).filter(|rank| seen.insert(*rank)).collect()
}

/// Ranks summed over.
pub fn contracted(equation: &Equation) -> Vec<Rank> {
    all_ranks(equation).into_iter().filter(|rank| !equation.result.has(*rank)).collect()
}

/// The kind of work of an equation: a matrix product if it has row, column and depth ranks (section 2 of the physics page).
/// `routed` is a rank to leave out: that of the experts in a grouped product.
pub fn work(equation: &Equation, routed: Option<Rank>) -> Work {
    let [left, right] = equation.factors.as_slice() else { return Work::Vector };
    let result = &equation.result.ranks;
    let (left, right) = (factor_ranks(left, result), factor_ranks(right, result));
    let mut ranks = MatrixRanks::default();
    for rank in all_ranks(equation).into_iter().filter(|rank| Some(*rank) != routed) {
        let list = match (left.contains(&rank), right.contains(&rank), result.contains(&rank)) {
            (true, true, true) => &mut ranks.batch,
            (true, false, true) => &mut ranks.rows,
            (false, true, true) => &mut ranks.columns,
            (_, _, false) => &mut ranks.depth,
            (false, false, true) => continue,
        };
        list.push(rank);
    }
    if ranks.rows.is_empty() || ranks.columns.is_empty() || ranks.depth.is_empty() {
        Work::Vector
    } else {
        Work::Matrix(ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::einsum::parse::parse;

    fn ranks(text: &str, routed: Option<Rank>) -> Option<[String; 4]> {
        match work(&parse(text).unwrap(), routed) {
            Work::Vector => None,
            Work::Matrix(m) => Some([m.batch, m.rows, m.columns, m.depth].map(|r| r.into_iter().collect())),
        }
    }

    #[test]
    fn sorts_ranks() {
        let expect = |a: [&str; 4]| Some(a.map(str::to_owned));
        assert_eq!(ranks("Q[b,s,g,r,e] = N[b,s,d] * Wq[d,g,r,e]", None), expect(["", "bs", "gre", "d"]));
        assert_eq!(ranks("S[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]", None), expect(["bg", "sr", "t", "e"]));
        assert_eq!(ranks("G[b,s,x,f] = N[b,s,d] * Wg[x,d,f]", Some('x')), expect(["", "bs", "f", "d"]));
        assert_eq!(ranks("M[b,s,d] = A[b,s,x] * D[b,s,x,d]", None), None);
        assert_eq!(ranks("A[b,s,f] = silu(G[b,s,f]) * U[b,s,f]", None), None);
        assert_eq!(ranks("X[b,s,d] = embed(Tokens[b,s], We[v,d])", None), None);
    }
}
