//! What is kept of the points of a walk: a front, the best few, the best of each group, distributions, counts.
//!
//! Every reduction is a function of the set of points alone: it can be made in parts, in any order, and merged.

pub mod bins;
pub mod front;
pub mod groups;
pub mod top;

use crate::batch::serve::{Columns, Served};
use crate::engine::space::Space;
use crate::engine::{Bounds, Plan, Schedule, Visitor};
use crate::lowering::mesh::Reason;
use crate::numeric::lanes::{LANES, Lane, ZERO};
use crate::system::stop::stopped;
use bins::Bins;
use front::{Front, OFFERS_A_LOOK};
use groups::{Best, Grouping};
use std::ops::Range;
use top::Top;

/// Most objectives of a front.
pub const MOST_OBJECTIVES: usize = 6;

/// What is kept.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Result column and sign (1 to minimise, −1 to maximise); the first is what top and groups go by.
    pub objectives: Vec<(usize, f64)>,
    /// Column, lowest and highest allowed value.
    pub bounds: Vec<(usize, f64, f64)>,
    /// Bits of mantissa by which objectives of a front are told apart; all if none.
    pub resolution: Option<u32>,
    /// How many of the best.
    pub top: usize,
    /// Axes of which each combination keeps its best.
    pub groups: Option<Grouping>,
    /// Columns whose distribution is counted.
    pub distributions: Vec<usize>,
}

impl Wanted {
    /// Columns that have to be evaluated.
    pub fn columns(&self) -> Columns {
        let objectives = self.objectives.iter().map(|(column, _)| *column);
        objectives
            .chain(self.bounds.iter().map(|(column, ..)| *column))
            .chain(self.distributions.iter().copied())
            .collect()
    }
}

/// Everything kept so far.
#[derive(Clone, Debug)]
pub struct Reduction {
    wanted: Wanted,
    /// Points nothing dominates.
    pub front: Front,
    /// The best few.
    pub top: Top,
    /// The best of each group.
    pub best: Best,
    /// Distributions.
    pub bins: Vec<Bins>,
    /// Points by reason code.
    pub by_reason: [u64; Reason::NAMES.len()],
    /// Points that run but are outside the bounds.
    pub outside: u64,
}

impl Reduction {
    /// Nothing yet.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            front: Front::new(wanted.objectives.len(), wanted.resolution),
            top: Top::new(wanted.top),
            best: Best::new(wanted.groups.as_ref().map_or(0, |groups| groups.count)),
            bins: wanted.distributions.iter().map(|_| Bins::default()).collect(),
            by_reason: [0; Reason::NAMES.len()],
            outside: 0,
            wanted,
        }
    }

    /// Nothing yet, but with what helps to turn dominated points away.
    #[must_use]
    pub fn beside(&self) -> Self {
        let mut other = Self::new(self.wanted.clone());
        other.front.learn(&self.front);
        other.top.learn(&self.top);
        other
    }

    /// What is wanted.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Takes in a range of a space, walked on some threads; nothing of a walk that was stopped.
    pub fn walk(&mut self, plan: &Plan, space: &Space, range: Range<u64>, schedule: Schedule, threads: usize) {
        let parts = plan.walk(space, range, self.wanted.columns(), schedule, threads, || self.beside());
        if stopped() {
            return;
        }
        let mut all = self.clone();
        parts.into_iter().for_each(|part| all.merge(part));
        if !stopped() {
            *self = all;
        }
    }

    /// The same with points known to run and to be inside the bounds, by their objectives; none if it is stopped.
    pub fn with_points<O: AsRef<[f64]>>(&self, points: impl IntoIterator<Item = (u64, O)>) -> Option<Self> {
        let mut all = self.clone();
        for (turn, (index, objectives)) in points.into_iter().enumerate() {
            if turn % OFFERS_A_LOOK == 0 && stopped() {
                return None;
            }
            let group = self.wanted.groups.as_ref().map(|groups| groups.of(index));
            all.offer(index, objectives.as_ref(), group);
        }
        (!stopped()).then_some(all)
    }

    /// Takes over another reduction of the same wishes; part of it, if it is stopped.
    pub fn merge(&mut self, other: Self) {
        self.front.merge(other.front);
        self.top.merge(other.top);
        self.best.merge(other.best);
        self.bins.iter_mut().zip(other.bins).for_each(|(own, other)| own.merge(other));
        self.by_reason.iter_mut().zip(other.by_reason).for_each(|(own, other)| *own += other);
        self.outside += other.outside;
    }

    /// Takes a point known to run and to be inside the bounds, by its objectives.
    pub fn offer(&mut self, index: u64, objectives: &[f64], group: Option<u64>) {
        self.front.offer(index, objectives);
        if let Some(first) = objectives.first() {
            self.top.offer(index, *first);
            if let Some(group) = group {
                self.best.offer(group, index, *first);
            }
        }
    }
}

impl Visitor for Reduction {
    fn prunes(&self) -> bool {
        self.bins.is_empty() && self.wanted.groups.is_none()
    }

    /// A run is settled if all of it lacks memory, or all of it is outside one bound, or inside all of them but dominated.
    fn settle(&mut self, count: u64, bounds: &Bounds) -> bool {
        if bounds.memory_bytes.low > bounds.capacity_bytes {
            self.by_reason[Reason::Memory as usize] += count;
            return true;
        }
        if bounds.memory_bytes.high > bounds.capacity_bytes {
            return false;
        }
        // Whether results are finite is seen point by point where they come near the largest numbers.
        if !bounds.finite() {
            return false;
        }
        let mut inside = true;
        for (column, low, high) in &self.wanted.bounds {
            let span = bounds.column(*column);
            if span.high < *low || span.low > *high {
                self.by_reason[Reason::Ok as usize] += count;
                self.outside += count;
                return true;
            }
            inside &= span.low >= *low && span.high <= *high;
        }
        let mut least = [0.0; MOST_OBJECTIVES];
        for (own, (column, sign)) in least.iter_mut().zip(&self.wanted.objectives) {
            let span = bounds.column(*column);
            *own = if *sign < 0.0 { -span.high } else { span.low };
        }
        if !inside || !self.top.turns_away(least[0]) || !self.front.turns_away(&least) {
            return false;
        }
        self.by_reason[Reason::Ok as usize] += count;
        true
    }

    fn refuse(&mut self, _first: u64, count: u64, reason: Reason) {
        self.by_reason[reason as usize] += count;
    }

    #[inline(always)]
    fn block(&mut self, first: u64, stride: u64, count: usize, served: &Served) {
        let mut alive = [0_u64; LANES];
        let mut running = 0;
        for i in 0..LANES {
            alive[i] = u64::from(i < count && served.reasons[i] == Reason::Ok as u64);
            running += alive[i];
        }
        self.by_reason[Reason::Ok as usize] += running;
        if running < count as u64 {
            for reason in served.reasons[..count].iter().filter(|reason| **reason != Reason::Ok as u64) {
                self.by_reason[*reason as usize] += 1;
            }
        }
        if !self.wanted.bounds.is_empty() {
            for (column, low, high) in &self.wanted.bounds {
                let values = &served.columns[*column];
                for i in 0..LANES {
                    alive[i] &= u64::from(values[i] >= *low) & u64::from(values[i] <= *high);
                }
            }
            let inside: u64 = alive.iter().sum();
            self.outside += running - inside;
            running = inside;
        }
        if running == 0 {
            return;
        }
        for (bins, column) in self.bins.iter_mut().zip(&self.wanted.distributions) {
            bins.count(&served.columns[*column], &alive);
        }
        let Some((column, sign)) = self.wanted.objectives.first() else { return };
        let mut leading = served.columns[*column];
        leading.iter_mut().for_each(|value| *value *= sign);
        self.top.block(first, stride, &leading, &alive);
        if let Some(groups) = &self.wanted.groups {
            self.best.block(groups, first, stride, count, &leading, &alive);
        }
        let mut objectives: [Lane; MOST_OBJECTIVES] = [ZERO; MOST_OBJECTIVES];
        for (own, (column, sign)) in objectives.iter_mut().zip(&self.wanted.objectives) {
            for i in 0..LANES {
                own[i] = sign * served.columns[*column][i];
            }
        }
        self.front.block(first, stride, &objectives, &mut alive);
    }
}
