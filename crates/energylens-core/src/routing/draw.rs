//! Random draws with the same bits on every machine.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::{Choice, Law};
use crate::numeric::exact::{exp_neg, ln, power};

/// A seeded generator.
pub struct Draw(Xoshiro256PlusPlus);

impl Draw {
    /// The same sequence for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A number above 0 and below 1.
    pub fn share(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }

    /// A standard normal number, by Marsaglia's polar method.
    pub fn normal(&mut self) -> f64 {
        loop {
            let (a, b) = (2.0 * self.share() - 1.0, 2.0 * self.share() - 1.0);
            let s = a * a + b * b;
            if s > 0.0 && s < 1.0 {
                return a * (-2.0 * ln(s) / s).sqrt();
            }
        }
    }

    /// A Gamma number of this shape and scale 1, by the method of Marsaglia and Tsang.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let u = self.share();
            return self.gamma(shape + 1.0) * power(u, 1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = 1.0 + c * x;
            if v <= 0.0 {
                continue;
            }
            let v = v * v * v;
            let ln_v = if v < 1.0 { ln(v) } else { -ln(1.0 / v) };
            if ln(self.share()) < 0.5 * x * x + d - d * v + d * ln_v {
                return d * v;
            }
        }
    }

    /// Puts a list into random order.
    pub fn shuffle<X>(&mut self, list: &mut [X]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }

    /// Weights of the experts of one layer; counts are those of layer `turn`.
    pub fn weights(&mut self, law: &Law, Choice { experts, active, .. }: Choice, turn: usize) -> Vec<f64> {
        match law {
            Law::Balanced | Law::Uniform | Law::PowerLaw(_) => vec![1.0; experts],
            Law::Dirichlet(shape) => (0..experts).map(|_| self.gamma(*shape).max(1e-30)).collect(),
            Law::Zipf(s) => {
                let mut weights: Vec<f64> = (1..=experts).map(|rank| power(1.0 / rank as f64, *s)).collect();
                self.shuffle(&mut weights);
                weights
            }
            Law::Counts(layers) => match layers.get(turn % layers.len().max(1)) {
                Some(layer) => {
                    // Weights under which each expert's chance is its counted share (Eq. 6.4).
                    let share = active as f64 / layer.iter().sum::<f64>();
                    layer.iter().map(|count| (-ln((1.0 - share * count).max(1e-12))).max(1e-30)).collect()
                }
                None => vec![1.0; experts],
            },
        }
    }

    /// Random deviations of counts from `T·π`, divided by √T: normal with variance `π·(1 − π)`, and sum 0 (Eq. 6.6).
    pub fn deviations(&mut self, chances: &[f64]) -> Vec<f64> {
        let variance = |chance: &f64| chance * (1.0 - chance);
        let mut deviations: Vec<f64> = chances.iter().map(|chance| variance(chance).sqrt() * self.normal()).collect();
        let (sum, all) = (deviations.iter().sum::<f64>(), chances.iter().map(variance).sum::<f64>());
        if all > 0.0 {
            let wider = (chances.len() as f64 / (chances.len() as f64 - 1.0)).sqrt();
            deviations
                .iter_mut()
                .zip(chances)
                .for_each(|(deviation, chance)| *deviation = wider * (*deviation - sum * variance(chance) / all));
        }
        deviations
    }

    /// Tokens of each expert under a power law, T tokens: drawn shares rounded, then corrected to sum to all choices.
    pub fn power_law(&mut self, alpha: f64, tokens: usize, choice: Choice) -> Vec<u32> {
        let (all, experts) = (tokens * choice.active, choice.experts);
        let (low, high) = if all > experts { (1.0, 0.8 * tokens as f64) } else { (0.01, 2.0) };
        let (a, b) = (to_uniform(low, 1.0 - alpha), to_uniform(high, 1.0 - alpha));
        let shares: Vec<f64> = (0..experts).map(|_| from_uniform(a + (b - a) * self.share(), 1.0 - alpha)).collect();
        let scale = all as f64 / shares.iter().sum::<f64>();
        let mut counts: Vec<usize> = shares.iter().map(|share| (share * scale).round() as usize).collect();
        let mut order: Vec<usize> = (0..experts).collect();
        self.shuffle(&mut order);
        order.sort_by_key(|expert| std::cmp::Reverse(counts[*expert]));
        // No token chooses an expert twice.
        counts.iter_mut().for_each(|count| *count = (*count).min(tokens));
        let mut dealt: usize = counts.iter().sum();
        while dealt < all {
            for &expert in &order {
                if dealt < all && counts[expert] < tokens {
                    counts[expert] += 1;
                    dealt += 1;
                }
            }
        }
        while dealt > all {
            for &expert in order.iter().rev() {
                if dealt > all && counts[expert] > 0 {
                    counts[expert] -= 1;
                    dealt -= 1;
                }
            }
        }
        counts.into_iter().map(|count| count as u32).collect()
    }
}

/// `x^e`, or ln x for e = 0: the transform under which shares of a power law are uniform.
fn to_uniform(x: f64, e: f64) -> f64 {
    if e == 0.0 { if x < 1.0 { ln(x) } else { -ln(1.0 / x) } } else { power(x, e) }
}

/// Inverse of [`to_uniform`].
fn from_uniform(y: f64, e: f64) -> f64 {
    match () {
        () if e != 0.0 => power(y, 1.0 / e),
        () if y < 0.0 => exp_neg(y),
        () => 1.0 / exp_neg(-y),
    }
}

/// Steps of Newton's method at most; weights far apart need some tens.
const MOST_STEPS: usize = 200;

/// Chance of each expert to be among the `active` different ones that a token takes one after the other, each with a chance
/// in proportion to its weight: `1 − e^(−c·w)`, c such that they sum to `active` (Eq. 6.6).
pub fn chances(weights: &[f64], active: usize) -> Vec<f64> {
    let wanted = active as f64;
    if active >= weights.len() {
        return vec![1.0; weights.len()];
    }
    // Newton's method from below, where what it looks for is concave.
    let mut c = wanted / weights.iter().sum::<f64>();
    for _ in 0..MOST_STEPS {
        let (mut expected, mut slope) = (0.0, 0.0);
        for w in weights {
            let missed = exp_neg(-c * w);
            expected += 1.0 - missed;
            slope += w * missed;
        }
        let step = (wanted - expected) / slope;
        c += step;
        if step <= 1e-9 * c {
            break;
        }
    }
    weights.iter().map(|w| 1.0 - exp_neg(-c * w)).collect()
}

/// Weights in a tree of sums, so that drawing and taking out one take a few steps.
pub struct Urn {
    sums: Vec<f64>,
    leaves: usize,
}

impl Urn {
    /// Of some weights.
    pub fn new(weights: &[f64]) -> Self {
        let leaves = weights.len().next_power_of_two();
        let mut sums = vec![0.0; 2 * leaves];
        sums[leaves..leaves + weights.len()].copy_from_slice(weights);
        for at in (1..leaves).rev() {
            sums[at] = sums[2 * at] + sums[2 * at + 1];
        }
        Self { sums, leaves }
    }

    fn set(&mut self, leaf: usize, weight: f64) {
        let mut at = self.leaves + leaf;
        self.sums[at] = weight;
        while at > 1 {
            at /= 2;
            self.sums[at] = self.sums[2 * at] + self.sums[2 * at + 1];
        }
    }

    /// Counts `active` different choices of one token, one after the other.
    pub fn choose(&mut self, active: usize, draw: &mut Draw, taken: &mut Vec<(usize, f64)>, counts: &mut [u32]) {
        taken.clear();
        for _ in 0..active {
            let mut left = draw.share() * self.sums[1];
            let mut at = 1;
            while at < self.leaves {
                at *= 2;
                if left >= self.sums[at] && self.sums[at + 1] > 0.0 {
                    left -= self.sums[at];
                    at += 1;
                }
            }
            let leaf = at - self.leaves;
            taken.push((leaf, self.sums[at]));
            self.set(leaf, 0.0);
            if let Some(count) = counts.get_mut(leaf) {
                *count += 1;
            }
        }
        for &(leaf, weight) in taken.iter() {
            self.set(leaf, weight);
        }
    }
}
