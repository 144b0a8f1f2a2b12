//! Top-k: the points of the smallest values, ties by index.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::numeric::lanes::{LANES, Lane};

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    value: f64,
    index: u64,
}

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value.total_cmp(&other.value).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// At most so many points of the smallest values.
#[derive(Clone, Debug, Default)]
pub struct Top {
    most: usize,
    /// Values above it are known not to be among the best.
    limit: f64,
    worst_first: BinaryHeap<Entry>,
}

impl Top {
    /// Nothing yet.
    pub fn new(most: usize) -> Self {
        Self { most, limit: f64::INFINITY, worst_first: BinaryHeap::new() }
    }

    /// Offers a point.
    pub fn offer(&mut self, index: u64, value: f64) {
        if self.most == 0 {
            return;
        }
        let entry = Entry { value, index };
        if value > self.limit {
            return;
        }
        if self.worst_first.len() < self.most {
            self.worst_first.push(entry);
        } else if let Some(mut worst) = self.worst_first.peek_mut()
            && entry < *worst
        {
            *worst = entry;
        }
    }

    /// Values above this one are not among the best of those seen.
    fn worst(&self) -> f64 {
        let full = self.worst_first.len() >= self.most;
        self.worst_first.peek().filter(|_| full).map_or(self.limit, |worst| worst.value.min(self.limit))
    }

    /// Rejects from now on what another over the same space would.
    pub fn learn(&mut self, other: &Self) {
        self.limit = other.worst();
    }

    /// Whether no point of at least this value can be among the best.
    pub fn rejects(&self, least: f64) -> bool {
        self.most == 0 || least > self.worst()
    }

    /// Offers those points of a block that are alive.
    #[inline(always)]
    pub fn block(&mut self, first: u64, stride: u64, values: &Lane, alive: &[u64; LANES]) {
        if self.most == 0 {
            return;
        }
        let limit = self.worst();
        let mut any = 0;
        for i in 0..LANES {
            any |= alive[i] & u64::from(values[i] <= limit);
        }
        if any != 0 {
            for i in (0..LANES).filter(|i| alive[*i] != 0 && values[*i] <= limit) {
                self.offer(first + i as u64 * stride, values[i]);
            }
        }
    }

    /// Takes over another.
    pub fn merge(&mut self, other: Self) {
        other.worst_first.into_iter().for_each(|entry| self.offer(entry.index, entry.value));
    }

    /// Indices, the best first.
    pub fn indices(&self) -> Vec<u64> {
        let mut entries: Vec<Entry> = self.worst_first.iter().copied().collect();
        entries.sort_unstable();
        entries.iter().map(|entry| entry.index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_few_whatever_the_order() {
        let values = [5.0, 1.0, 3.0, 1.0, 9.0, 2.0];
        let mut halves = [Top::new(3), Top::new(3)];
        for (i, value) in values.iter().enumerate().rev() {
            halves[i % 2].offer(i as u64, *value);
        }
        let [mut a, b] = halves;
        a.merge(b);
        assert_eq!(a.indices(), [1, 3, 5]);
    }
}
