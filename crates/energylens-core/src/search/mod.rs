//! NSGA-II (Deb et al. 2002) over a space: points are keys, axes are genes, and no point is evaluated twice.
//!
//! Everything is integer arithmetic or plain floating-point operations in a fixed order, and each generation draws from a
//! generator seeded by the seed and its number: the same seed finds the same points on any machine, broken off or not.

pub mod rank;
mod vary;

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use crate::batch::serve::Columns;
use crate::engine::Plan;
use crate::engine::space::{Listed, Space};
use crate::error::Problem;
use crate::lowering::mesh::Reason;
use crate::reduce::{Reduction, Wanted};
use crate::system::hash::KeyHasher;
use crate::system::stop::stopped;
use rank::Ranked;
use vary::Genes;

/// Result column of the memory a point needs.
const MEMORY: usize = 11;

/// Violations order what is infeasible, from near to far: points outside bounds by the excess relative to the bound, then
/// those that lack memory by their bytes (in units of a terabyte), then those that cannot be laid out.
const LACKS_MEMORY: f64 = 1e3;
const PER_BYTE: f64 = 1e-12;
const NO_LAYOUT: f64 = 1e6;

/// A bound of 0 has no relative excess.
const SMALLEST_BOUND: f64 = 1e-300;

type Keys = HashSet<u64, BuildHasherDefault<KeyHasher>>;

/// A point of the population: objectives, all minimised, and by how much it violates what it must keep to.
#[derive(Clone, Debug, PartialEq)]
pub struct Individual {
    /// Index in the space.
    pub key: u64,
    /// Objectives.
    pub objectives: Vec<f64>,
    /// Nothing if it runs and is inside all bounds.
    pub violation: f64,
}

/// A search in progress.
#[derive(Debug)]
pub struct Search {
    space: Space,
    genes: Genes,
    size: usize,
    seed: u64,
    /// Generations done, the first of random points included.
    pub generation: u64,
    population: Vec<Individual>,
    standing: Vec<Ranked>,
    seen: Keys,
    /// Every feasible point met, reduced to the best, which no population caps.
    pub archive: Reduction,
}

impl Search {
    /// A search that has not begun, with a population of `size`.
    pub fn new(space: Space, wanted: Wanted, size: usize, seed: u64) -> Self {
        Self {
            genes: Genes::new(&space),
            space,
            size: size.max(2),
            seed,
            generation: 0,
            population: Vec::new(),
            standing: Vec::new(),
            seen: Keys::default(),
            archive: Reduction::new(wanted),
        }
    }

    /// Whether every point of the space has been met.
    pub fn exhausted(&self) -> bool {
        self.seen.len() as u64 >= self.space.size()
    }

    /// Different points met.
    pub fn points(&self) -> usize {
        self.seen.len()
    }

    /// Keys met, ascending.
    pub fn seen(&self) -> Vec<u64> {
        let mut keys: Vec<u64> = self.seen.iter().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Keys of the population, in its order.
    pub fn population(&self) -> Vec<u64> {
        self.population.iter().map(|individual| individual.key).collect()
    }

    /// One generation: random points first, then children of the population. If it is stopped, nothing has happened.
    ///
    /// # Errors
    /// If there is not memory for the results of a generation.
    pub fn step(&mut self, plan: &Plan, threads: usize) -> Result<(), Problem> {
        let mut random =
            Xoshiro256PlusPlus::seed_from_u64(self.seed ^ self.generation.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let keys = if self.generation == 0 {
            self.genes.sample(self.size, &mut self.seen, &mut random)
        } else {
            self.genes.children(&self.population, &self.standing, self.size, &mut self.seen, &mut random)
        };
        let (met, reasons) = self.measure(plan, &keys, threads)?;
        let before = self.population.len();
        self.population.extend(met);
        let order = if stopped() { Vec::new() } else { rank::survivors(&self.population, self.size) };
        if stopped() {
            self.population.truncate(before);
            keys.iter().for_each(|key| {
                self.seen.remove(key);
            });
            return Ok(());
        }
        self.count(before, &reasons);
        self.survive(order);
        self.generation += 1;
        Ok(())
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Rank of each of the population, and the bits of its crowding distance.
    pub fn standing(&self) -> (Vec<u64>, Vec<u64>) {
        self.standing.iter().map(|ranked| (u64::from(ranked.rank), ranked.crowding.to_bits())).unzip()
    }

    /// Goes on from [`Search::generation`], [`Search::population`] with its [`Search::standing`] (as long), [`Search::seen`]
    /// and the points of the archive; false if it is stopped, and then nothing has happened.
    ///
    /// # Errors
    /// If there is not memory for the results of the population.
    #[expect(clippy::too_many_arguments, reason = "one argument for each part of the state")]
    pub fn restore(
        &mut self,
        plan: &Plan,
        generation: u64,
        population: &[u64],
        standing: (&[u64], &[u64]),
        seen: &[u64],
        front: &[u64],
        threads: usize,
    ) -> Result<bool, Problem> {
        let (best, population) = (self.measure(plan, front, threads)?.0, self.measure(plan, population, threads)?.0);
        let Some(archive) = self.archive.with_points(best.into_iter().map(|best| (best.key, best.objectives))) else {
            return Ok(false);
        };
        self.archive = archive;
        self.generation = generation;
        self.seen = seen.iter().copied().collect();
        self.population = population;
        let places = standing.0.iter().zip(standing.1).enumerate();
        let ranked =
            places.map(|(at, (rank, bits))| Ranked { at, rank: *rank as u32, crowding: f64::from_bits(*bits) });
        self.standing = ranked.collect();
        Ok(true)
    }

    /// Evaluates points; returns them with why each cannot run.
    fn measure(&self, plan: &Plan, keys: &[u64], threads: usize) -> Result<(Vec<Individual>, Vec<u8>), Problem> {
        let wanted = self.archive.wanted();
        let columns: Columns = wanted.columns().iter().chain([MEMORY]).collect();
        let table = plan.evaluate(&Listed { space: &self.space, indices: keys }, columns, threads)?;
        let order: Vec<usize> = columns.iter().collect();
        let column = |wanted: usize| order.iter().position(|c| *c == wanted).map_or(&[][..], |at| &table.columns[at]);
        let memory = column(MEMORY);
        let objectives: Vec<(&[f64], f64)> = wanted.objectives.iter().map(|(c, sign)| (column(*c), *sign)).collect();
        let bounds: Vec<(&[f64], f64, f64)> =
            wanted.bounds.iter().map(|(c, low, high)| (column(*c), *low, *high)).collect();
        let measure = |(row, key): (usize, &u64)| {
            let runs = table.reasons[row] == Reason::Ok as u8;
            let violation = if runs {
                // Each relative to its bound, summed over the bounds.
                bounds
                    .iter()
                    .map(|(values, low, high)| {
                        let (value, bound) = (values[row], if high.is_finite() { *high } else { *low });
                        let beyond = (value - high).max(low - value).max(0.0);
                        beyond / bound.abs().max(SMALLEST_BOUND)
                    })
                    .fold(0.0, |sum, violation| sum + violation)
            } else if memory[row] > 0.0 && table.reasons[row] != Reason::Overflow as u8 {
                LACKS_MEMORY + memory[row] * PER_BYTE
            } else {
                NO_LAYOUT
            };
            let objectives = objectives.iter().map(|(values, sign)| sign * values[row]).collect();
            Individual { key: *key, objectives, violation }
        };
        let met: Vec<Individual> = keys.iter().enumerate().map(measure).collect();
        Ok((met, table.reasons))
    }

    /// Takes the latest of the population, from a place on, into account.
    fn count(&mut self, from: usize, reasons: &[u8]) {
        for (individual, reason) in self.population[from..].iter().zip(reasons) {
            self.archive.by_reason[usize::from(*reason)] += 1;
            if individual.violation == 0.0 {
                self.archive.offer(individual.key, &individual.objectives, None);
            } else if *reason == Reason::Ok as u8 {
                self.archive.outside += 1;
            }
        }
    }

    /// Keeps the best of parents and children.
    fn survive(&mut self, order: Vec<Ranked>) {
        let mut all: Vec<Option<Individual>> = std::mem::take(&mut self.population).into_iter().map(Some).collect();
        self.population = order.iter().filter_map(|ranked| all[ranked.at].take()).collect();
        self.standing = order;
    }
}
