//! New points from old ones: random samples, tournaments, crossover and mutation of digits.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

use super::rank::Ranked;
use super::{Individual, Keys};
use crate::engine::space::Space;
use crate::system::stop::stopped;

/// Attempts to find a child that has not been met, before a random point is taken.
const ATTEMPTS: usize = 8;

/// Share of children that mix two parents.
const CROSSED: f64 = 0.9;

/// Axes with a choice, and what a step of each is worth in a key.
#[derive(Clone, Debug)]
pub struct Genes {
    lengths: Vec<u64>,
    weights: Vec<u64>,
    size: u64,
}

/// A whole number below `end`.
fn below(random: &mut Xoshiro256PlusPlus, end: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(end)) >> 64) as u64
}

/// A number from 0 up to 1.
fn share(random: &mut Xoshiro256PlusPlus) -> f64 {
    (random.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

impl Genes {
    /// Of a space.
    pub fn new(space: &Space) -> Self {
        let (mut lengths, mut weights, mut weight) = (Vec::new(), Vec::new(), 1);
        for length in space.digits_end().into_iter().rev().map(|length| length as u64) {
            if length > 1 {
                lengths.push(length);
                weights.push(weight);
            }
            weight *= length;
        }
        Self { lengths, weights, size: space.size() }
    }

    fn digits(&self, key: u64) -> Vec<u64> {
        self.lengths.iter().zip(&self.weights).map(|(length, weight)| key / weight % length).collect()
    }

    fn key(&self, digits: &[u64]) -> u64 {
        digits.iter().zip(&self.weights).map(|(digit, weight)| digit * weight).sum()
    }

    /// A point not met so far. Where half the space has been met, `left` lists the others at the first need.
    fn fresh(&self, seen: &mut Keys, left: &mut Option<Vec<u64>>, random: &mut Xoshiro256PlusPlus) -> Option<u64> {
        if left.is_none() && (seen.len() as u64) < self.size / 2 {
            loop {
                let key = below(random, self.size);
                if seen.insert(key) {
                    return Some(key);
                }
            }
        }
        let left = left.get_or_insert_with(|| (0..self.size).filter(|key| !seen.contains(key)).collect());
        while !left.is_empty() {
            let at = below(random, left.len() as u64) as usize;
            let key = left.swap_remove(at);
            if seen.insert(key) {
                return Some(key);
            }
        }
        None
    }

    /// Different random points.
    pub fn sample(&self, count: usize, seen: &mut Keys, random: &mut Xoshiro256PlusPlus) -> Vec<u64> {
        let mut left = None;
        (0..count).map_while(|_| if stopped() { None } else { self.fresh(seen, &mut left, random) }).collect()
    }

    /// Children of a population, none met before; fewer if the space has no more.
    pub fn children(
        &self,
        population: &[Individual],
        standing: &[Ranked],
        count: usize,
        seen: &mut Keys,
        random: &mut Xoshiro256PlusPlus,
    ) -> Vec<u64> {
        let parents: Vec<Vec<u64>> = population.iter().map(|individual| self.digits(individual.key)).collect();
        let pick = |random: &mut Xoshiro256PlusPlus| {
            let (a, b) = (below(random, parents.len() as u64) as usize, below(random, parents.len() as u64) as usize);
            if standing[b].beats(&standing[a]) { b } else { a }
        };
        let mut left = None;
        let mut children = Vec::with_capacity(count);
        while children.len() < count && !stopped() {
            let (a, b) = (pick(random), pick(random));
            let mut child = self.cross(&parents[a], &parents[b], random);
            let mut child_key = None;
            for _ in 0..ATTEMPTS {
                self.mutate(&mut child, random);
                let key = self.key(&child);
                if seen.insert(key) {
                    child_key = Some(key);
                    break;
                }
            }
            match child_key.or_else(|| self.fresh(seen, &mut left, random)) {
                Some(key) => children.push(key),
                None => break,
            }
        }
        children
    }

    /// Each digit from either parent, or from between and a little beyond them.
    fn cross(&self, a: &[u64], b: &[u64], random: &mut Xoshiro256PlusPlus) -> Vec<u64> {
        let crossed = share(random) < CROSSED;
        let mix = |((&a, &b), &length): ((&u64, &u64), &u64)| {
            let kind = random.next_u64() >> 62;
            match kind {
                _ if !crossed || a == b => a,
                0 => b,
                1 => a,
                _ => {
                    let (low, high) = (a.min(b), a.max(b));
                    let beyond = (high - low) / 4;
                    let low = low.saturating_sub(beyond);
                    let high = (high + beyond).min(length - 1);
                    low + below(random, high - low + 1)
                }
            }
        };
        a.iter().zip(b).zip(&self.lengths).map(mix).collect()
    }

    /// On average one digit: a new one, or a step of a size that halves with each half of the cases.
    fn mutate(&self, child: &mut [u64], random: &mut Xoshiro256PlusPlus) {
        let genes = child.len() as u64;
        for (digit, &length) in child.iter_mut().zip(&self.lengths) {
            if below(random, genes) != 0 {
                continue;
            }
            let bits = random.next_u64();
            if bits & 1 == 0 {
                *digit = below(random, length);
                continue;
            }
            let span = (length >> (1 + (bits >> 8).trailing_zeros().min(20))).max(1);
            let step = 1 + below(random, span);
            *digit = if bits & 2 == 0 { digit.saturating_sub(step) } else { (*digit + step).min(length - 1) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::rand_core::SeedableRng;

    #[test]
    fn every_point_is_born_once() {
        let genes = Genes { lengths: vec![7, 5], weights: vec![1, 7], size: 35 };
        let (mut seen, mut random) = (Keys::default(), Xoshiro256PlusPlus::seed_from_u64(3));
        let mut born = genes.sample(10, &mut seen, &mut random);
        let population: Vec<Individual> =
            born.iter().map(|key| Individual { key: *key, objectives: vec![0.0], violation: 0.0 }).collect();
        let standing = vec![Ranked { at: 0, rank: 0, crowding: 0.0 }; 10];
        born.extend(genes.children(&population, &standing, 100, &mut seen, &mut random));
        born.sort_unstable();
        assert_eq!(born, (0..35).collect::<Vec<u64>>());
        assert_eq!(genes.key(&genes.digits(33)), 33);
    }
}
