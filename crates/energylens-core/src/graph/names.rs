//! Where tensors come from: which equations make them, which are weights, which one is the model's input.

use std::collections::{BTreeMap, BTreeSet};

use crate::einsum::{Equation, Rank};
use crate::error::{Problem, Problems, Step, nearest};

/// Parsed equations, by block and kernel.
pub(super) type Parsed = Vec<Vec<Vec<Equation>>>;

/// Names of tensors, and the equations they come from.
pub(super) struct Names {
    /// Every tensor that an equation makes, with its ranks in the first such equation.
    pub made: BTreeMap<String, Vec<Rank>>,
    /// The same for each block alone: a block may reuse a name for a tensor of its own.
    pub made_in: Vec<BTreeMap<String, Vec<Rank>>>,
    /// Weights: tensors that no equation makes and that carry none of the ranks b, s, t.
    pub weights: BTreeSet<String>,
}

impl Names {
    /// The block that makes a tensor for a reader in `block`: that block itself, else the nearest before, else the first after.
    pub fn home(&self, block: usize, name: &str) -> usize {
        let mut order = (0..=block).rev().chain(block..self.made_in.len());
        order.find(|candidate| self.made_in[*candidate].contains_key(name)).unwrap_or(block)
    }

    /// Ranks a tensor has for a reader in that block: as made there, else in the nearest block before, else after.
    pub fn ranks_for(&self, block: usize, name: &str) -> Option<&Vec<Rank>> {
        self.made_in[self.home(block, name)].get(name)
    }

    /// Sorts out the names of all equations. A tensor that is read before any equation makes it is the model's input, of
    /// which there is one.
    pub fn of(parsed: &Parsed, problems: &mut Problems) -> Self {
        let mut made: BTreeMap<String, Vec<Rank>> = BTreeMap::new();
        let mut made_in = vec![BTreeMap::new(); parsed.len()];
        for (block, made_here) in parsed.iter().zip(&mut made_in) {
            for equation in block.iter().flatten() {
                made.entry(equation.result.name.clone()).or_insert_with(|| equation.result.ranks.clone());
                made_here.entry(equation.result.name.clone()).or_insert_with(|| equation.result.ranks.clone());
            }
        }
        let mut weights = BTreeSet::new();
        let mut input: Option<String> = None;
        let mut so_far: BTreeSet<&str> = BTreeSet::new();
        for (place, equation) in places(parsed) {
            for tensor in equation.reads().filter(|tensor| !so_far.contains(tensor.name.as_str())) {
                let is_made = made.contains_key(&tensor.name);
                if !is_made && !tensor.ranks.iter().any(|rank| "bst".contains(*rank)) {
                    weights.insert(tensor.name.clone());
                } else if input.get_or_insert_with(|| tensor.name.clone()) != &tensor.name {
                    let message = if is_made {
                        format!("`{}` is read before any equation makes it", tensor.name)
                    } else {
                        format!("no equation makes `{}`", tensor.name)
                    };
                    let near = nearest(&tensor.name, made.keys().map(String::as_str).filter(|n| *n != tensor.name));
                    let hint = match (near, &input) {
                        (Some(near), _) => format!("did you mean `{near}`?"),
                        (None, Some(input)) => format!("a model has one input tensor, and `{input}` is it"),
                        (None, None) => "make it first".to_owned(),
                    };
                    let problem = Problem::new("unmade-tensor", message).at(tensor.span.0, tensor.span.1);
                    problems.push(problem.hint(hint).inside(&place));
                }
            }
            so_far.insert(&equation.result.name);
        }
        Self { made, made_in, weights }
    }
}

/// Path of every equation with the equation.
pub(super) fn places(parsed: &[Vec<Vec<Equation>>]) -> impl Iterator<Item = (Vec<Step>, &Equation)> {
    parsed.iter().enumerate().flat_map(|(i, kernels)| {
        kernels.iter().enumerate().flat_map(move |(k, equations)| {
            equations.iter().enumerate().map(move |(l, equation)| (equation_path(i, k, l), equation))
        })
    })
}

/// Path of one equation in its model.
pub(super) fn equation_path(block: usize, kernel: usize, line: usize) -> Vec<Step> {
    vec!["blocks".into(), block.into(), "kernels".into(), kernel.into(), "equations".into(), line.into()]
}

/// The rank of that name, which is one letter.
pub(super) fn letter(name: &str) -> Option<Rank> {
    let mut chars = name.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if c.is_ascii_alphabetic() => Some(c),
        _ => None,
    }
}
