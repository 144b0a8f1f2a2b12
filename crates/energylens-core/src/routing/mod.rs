//! How tokens choose experts, and how that loads GPUs: laws, placements, and tables of both by number of tokens (section 6 of
//! the physics page).

mod draw;
pub mod placement;
pub mod table;

use serde::Deserialize;

pub use placement::Placement;
pub use table::Table;

/// How popular experts are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", tag = "law", content = "value")]
pub enum Law {
    /// Every expert takes the same number of tokens, which no real router achieves (Eq. 6.5).
    Balanced,
    /// All experts are alike; every token chooses independently (Eq. 6.3).
    #[default]
    Uniform,
    /// Weights drawn from a Gamma distribution of this shape: the smaller, the fewer experts a batch is about.
    Dirichlet(f64),
    /// Weights r^-s of the r-th most popular.
    Zipf(f64),
    /// Shares of tokens drawn from a density x^-α on 1 to 0.8·T, of T tokens (on 0.01 to 2 where there are no more choices
    /// than experts), as the measured kernel tables have them.
    PowerLaw(f64),
    /// Counted tokens of each expert, by layer.
    Counts(Vec<Vec<f64>>),
}

/// Most experts of a model: each is drawn in turn where loads are tabulated.
pub const MOST_EXPERTS: usize = 1 << 16;

/// Most tokens counted of an expert: whole numbers below are exact.
const MOST_COUNTED: f64 = 9_007_199_254_740_992.0;

impl Law {
    /// Why it cannot be the law of a model with so many experts, of which a token takes `active` different ones; none if it
    /// can.
    pub fn fault(&self, experts: usize, active: usize) -> Option<String> {
        let outside = |what: &str, value: f64, least: f64, most: f64| {
            (!(least..=most).contains(&value)).then(|| format!("its {what} {value} is not between {least} and {most}"))
        };
        let layers = match self {
            Self::Balanced | Self::Uniform => return None,
            Self::Dirichlet(shape) => return outside("shape", *shape, 1e-3, 1e6),
            Self::Zipf(exponent) | Self::PowerLaw(exponent) => return outside("exponent", *exponent, 0.0, 10.0),
            Self::Counts(layers) => layers,
        };
        let counted = |layer: &Vec<f64>| {
            layer.iter().all(|count| (0.0..=MOST_COUNTED).contains(count)) && layer.iter().any(|count| *count > 0.0)
        };
        if layers.is_empty() || !layers.iter().all(counted) {
            return Some(format!("counts are 0 to {MOST_COUNTED}, and some expert of every layer has any"));
        }
        if let Some(layer) = layers.iter().find(|layer| layer.len() != experts) {
            return Some(format!("counts of {} experts for a model with {experts}", layer.len()));
        }
        let most = |layer: &Vec<f64>| {
            layer.iter().fold(0.0, |a: f64, b| a.max(*b)) * active as f64 / layer.iter().sum::<f64>()
        };
        let share = layers.iter().map(most).fold(0.0, f64::max);
        (share > 1.0 + 1e-9).then(|| {
            format!("an expert with {share:.2} times as many tokens as there are, each of which takes {active} different ones")
        })
    }

    /// Whether the same experts stay popular, so that they can be placed by it; if not, every batch has other ones.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::Zipf(_) | Self::Counts(_))
    }
}

/// Experts in groups, in order; those that a token chooses are all in some of the groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Groups {
    /// Groups.
    pub number: f64,
    /// Groups that a token's experts are in, at most.
    pub active: f64,
}

/// Expected number of parts, of `n` equal ones, that hold any of a token's `k` of `x` experts: `n·(1 − C(x − x/n, k)/C(x, k))`
/// (Eq. 7.2).
fn parts(n: f64, x: f64, k: f64) -> f64 {
    n * (1.0 - chance_within(x - x / n, k, x))
}

/// Expected number of parts, of `n` equal ones (GPUs or nodes), that hold any of a token's `k` of `x` experts (Eq. 7.2, with
/// groups Eq. 7.3).
pub fn reach(n: f64, x: f64, k: f64, groups: Option<Groups>) -> f64 {
    let Some(Groups { number, active }) = groups else { return parts(n, x, k) };
    let (each, open) = (x / number, active * x / number);
    if n % number == 0.0 {
        return parts(n * active / number, open, k);
    }
    let wide = number / n;
    if wide.fract() != 0.0 {
        return parts(n, x, k);
    }
    let (mut absent, mut chance, mut j) =
        (0.0, combinations(number - wide, active) / combinations(number, active), 0.0);
    if number - wide < active {
        // Some of a part's groups are always among the token's.
        j = active - (number - wide);
        chance = combinations(wide, j) / combinations(number, active);
    }
    while j <= wide.min(active) {
        absent += chance * chance_within((active - j) * each, k, open);
        chance *= (wide - j) * (active - j) / ((j + 1.0) * (number - wide - active + j + 1.0));
        j += 1.0;
    }
    n * (1.0 - absent)
}

/// Number of subsets of `k` of `x`.
fn combinations(x: f64, k: f64) -> f64 {
    let (mut product, mut i) = (1.0, 0.0);
    while i < k {
        product *= (x - i) / (i + 1.0);
        i += 1.0;
    }
    product
}

/// Chance that all `k` chosen of `x` are among `some` of them.
fn chance_within(some: f64, k: f64, x: f64) -> f64 {
    let (mut chance, mut taken) = (1.0, 0.0);
    while taken < k {
        chance *= if some > taken { (some - taken) / (x - taken) } else { 0.0 };
        taken += 1.0;
    }
    chance
}

/// Experts, those a token chooses, and the GPUs they are dealt to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Experts.
    pub experts: usize,
    /// Different ones that a token chooses.
    pub active: usize,
    /// GPUs.
    pub gpus: usize,
}

#[cfg(test)]
mod tests {
    use super::{Groups, parts, reach};

    #[test]
    fn reach_against_enumeration() {
        // Two of four experts on two nodes: two of the six pairs are on one node.
        assert!((parts(2.0, 4.0, 2.0) - (2.0 * 4.0 + 2.0) / 6.0).abs() < 1e-12);
        assert!((parts(8.0, 256.0, 1.0) - 1.0).abs() < 1e-12);
        assert!((parts(4.0, 4.0, 3.0) - 3.0).abs() < 1e-12);
        assert!((parts(1.0, 8.0, 8.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn groups_bound_the_nodes() {
        let limited = |n, active| reach(n, 256.0, 8.0, Some(Groups { number: 8.0, active }));
        let free = |n| reach(n, 256.0, 8.0, None);
        for n in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
            assert!(limited(n, 4.0) <= free(n) + 1e-12);
            assert!(limited(n, 4.0) >= 1.0 - 1e-12);
            assert!((limited(n, 8.0) - free(n)).abs() < 1e-9, "{n}");
        }
        assert!(limited(8.0, 4.0) <= 4.0 && limited(8.0, 4.0) > 3.5);
        // Two experts of one of two groups of two on two nodes, and of two of four groups of one.
        let small = |n, x, k, number, active| reach(n, x, k, Some(Groups { number, active }));
        assert!((small(2.0, 4.0, 2.0, 2.0, 1.0) - 1.0).abs() < 1e-12);
        assert!((small(2.0, 4.0, 2.0, 4.0, 2.0) - (2.0 * 4.0 + 2.0) / 6.0).abs() < 1e-12);
        assert!((small(2.0, 8.0, 3.0, 4.0, 4.0) - reach(2.0, 8.0, 3.0, None)).abs() < 1e-12);
        assert!((limited(4.0, 1.0) - 1.0).abs() < 1e-12);
    }
}
