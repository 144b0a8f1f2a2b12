//! Reductions over evaluated points: Pareto front, top-k, best of each group, histograms, counts by reason.
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
use front::{Front, OFFERS_PER_CHECK};
use groups::{Best, Grouping};
use std::ops::Range;
use top::Top;

/// Most objectives of a front.
pub const MOST_OBJECTIVES: usize = 6;

/// Which reductions to make.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Result column and sign (1 to minimise, −1 to maximise); the first is what top and groups go by.
    pub objectives: Vec<(usize, f64)>,
    /// Column, lowest and highest allowed value.
    pub bounds: Vec<(usize, f64, f64)>,
    /// Bits of mantissa in which objectives of a front may differ; all if none.
    pub resolution: Option<u32>,
    /// k of the top-k by the first objective; 0 is none.
    pub top: usize,
    /// Axes, the best point of each combination of which is wanted.
    pub groups: Option<Grouping>,
    /// Columns of which there is a histogram.
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

/// The reductions over the points so far.
#[derive(Clone, Debug)]
pub struct Reduction {
    wanted: Wanted,
    /// Points nothing dominates.
    pub front: Front,
    /// Top-k.
    pub top: Top,
    /// The best of each group.
    pub best: Best,
    /// Histograms.
    pub bins: Vec<Bins>,
    /// Points by reason code.
    pub by_reason: [u64; Reason::NAMES.len()],
    /// Points that run but are outside the bounds.
    pub outside: u64,
}

impl Reduction {
    /// Over no points yet.
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

    /// An empty reduction for another thread, which rejects at once what this one would.
    #[must_use]
    pub fn empty_sibling(&self) -> Self {
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
        let parts = plan.walk(space, range, self.wanted.columns(), schedule, threads, || self.empty_sibling());
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
            if turn % OFFERS_PER_CHECK == 0 && stopped() {
                return None;
            }
            let group = self.wanted.groups.as_ref().map(|groups| groups.of(index));
            all.offer(index, objectives.as_ref(), group);
        }
        (!stopped()).then_some(all)
    }

    /// Merges another reduction of the same request; part of it, if it is stopped.
    pub fn merge(&mut self, other: Self) {
        self.front.merge(other.front);
        self.top.merge(other.top);
        self.best.merge(other.best);
        self.bins.iter_mut().zip(other.bins).for_each(|(bins, other)| bins.merge(other));
        self.by_reason.iter_mut().zip(other.by_reason).for_each(|(count, other)| *count += other);
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

    /// Points are settled if all of them lack memory, are outside the same bound, or are inside all bounds but dominated.
    fn settle(&mut self, count: u64, bounds: &Bounds) -> bool {
        if bounds.memory_bytes.low > bounds.capacity_bytes {
            self.by_reason[Reason::Memory as usize] += count;
            return true;
        }
        if bounds.memory_bytes.high > bounds.capacity_bytes {
            return false;
        }
        // Near the largest numbers, only the results themselves show whether they are finite.
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
        for (value, (column, sign)) in least.iter_mut().zip(&self.wanted.objectives) {
            let span = bounds.column(*column);
            *value = if *sign < 0.0 { -span.high } else { span.low };
        }
        if !inside || !self.top.rejects(least[0]) || !self.front.rejects(&least) {
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
        for (lane, (column, sign)) in objectives.iter_mut().zip(&self.wanted.objectives) {
            for i in 0..LANES {
                lane[i] = sign * served.columns[*column][i];
            }
        }
        self.front.block(first, stride, &objectives, &mut alive);
    }
}
