//! The best point of each group by one value, ties by index.

use crate::engine::space::{AXES, Space};
use crate::numeric::lanes::{LANES, Lane};

/// How indices fall into groups.
#[derive(Clone, Debug)]
pub struct Grouping {
    lengths: [u64; AXES],
    weights: [u64; AXES],
    /// Number of groups.
    pub count: usize,
}

impl Grouping {
    /// Groups by some axes of a space, the last one fastest; none if there are too many.
    pub fn new(space: &Space, axes: &[usize]) -> Option<Self> {
        let lengths = space.digits_end();
        let mut weights = [0; AXES];
        let mut count = 1_u64;
        for axis in axes.iter().rev() {
            weights[*axis] = count;
            count = count.checked_mul(lengths[*axis] as u64).filter(|count| *count <= Self::MOST)?;
        }
        Some(Self { lengths: lengths.map(|length| length as u64), weights, count: count as usize })
    }

    /// Most groups: each takes sixteen bytes on every thread.
    pub const MOST: u64 = 1 << 22;

    /// By how much groups differ from one to the next of `count` points `first, first + stride, ...`, if always the same.
    #[inline(always)]
    fn step(&self, first: u64, stride: u64, count: u64) -> Option<u64> {
        let [.., prompts, outputs] = self.lengths;
        if stride == 1 && first % outputs + count <= outputs {
            Some(self.weights[AXES - 1])
        } else if stride == outputs && first / outputs % prompts + count <= prompts {
            Some(self.weights[AXES - 2])
        } else {
            None
        }
    }

    /// Group of a point.
    pub fn of(&self, index: u64) -> u64 {
        let (mut rest, mut group) = (index, 0);
        for (length, weight) in self.lengths.iter().zip(&self.weights).rev() {
            if *length > 1 {
                group += rest % length * weight;
                rest /= length;
            }
        }
        group
    }
}

/// The best point of each group.
#[derive(Clone, Debug, Default)]
pub struct Best {
    values: Vec<f64>,
    indices: Vec<u64>,
}

impl Best {
    /// Nothing yet, of so many groups.
    pub fn new(groups: usize) -> Self {
        Self { values: vec![f64::INFINITY; groups], indices: vec![u64::MAX; groups] }
    }

    /// Offers a point of a group.
    pub fn offer(&mut self, group: u64, index: u64, value: f64) {
        if let (Some(best), Some(at)) = (self.values.get_mut(group as usize), self.indices.get_mut(group as usize))
            && (value < *best || (value == *best && index < *at))
        {
            (*best, *at) = (value, index);
        }
    }

    /// Offers those of the `count` points of a block that are alive.
    #[inline(always)]
    pub fn block(
        &mut self,
        groups: &Grouping,
        first: u64,
        stride: u64,
        count: usize,
        values: &Lane,
        alive: &[u64; LANES],
    ) {
        let Some(step) = groups.step(first, stride, count as u64) else {
            for i in (0..count).filter(|i| alive[*i] != 0) {
                let index = first + i as u64 * stride;
                self.offer(groups.of(index), index, values[i]);
            }
            return;
        };
        let group = groups.of(first);
        let mut limits = [f64::NEG_INFINITY; LANES];
        for (i, limit) in limits.iter_mut().enumerate().take(count) {
            *limit = self.values.get((group + i as u64 * step) as usize).copied().unwrap_or(f64::NEG_INFINITY);
        }
        let mut any = 0;
        for i in 0..LANES {
            any |= alive[i] & u64::from(values[i] <= limits[i]);
        }
        if any != 0 {
            for i in (0..count).filter(|i| alive[*i] != 0 && values[*i] <= limits[*i]) {
                self.offer(group + i as u64 * step, first + i as u64 * stride, values[i]);
            }
        }
    }

    /// Takes over another.
    pub fn merge(&mut self, other: Self) {
        for (group, (value, index)) in other.values.into_iter().zip(other.indices).enumerate() {
            if index != u64::MAX {
                self.offer(group as u64, index, value);
            }
        }
    }

    /// Groups that have a point, with its index.
    pub fn members(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.indices.iter().enumerate().filter(|(_, index)| **index != u64::MAX).map(|(g, index)| (g as u64, *index))
    }
}
