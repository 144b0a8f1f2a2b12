//! Which GPU holds which expert.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Which GPU holds which expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Placement {
    /// In order, the same number on each GPU.
    #[default]
    Contiguous,
    /// The same number on each GPU, the most popular first, each to the GPU with the lowest load.
    Balanced,
    /// The same with this many more copies of the most popular, whose tokens are shared among copies.
    Replicated(u16),
}

/// Copies of experts on GPUs.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// By GPU: expert, which of its copies, and of how many.
    pub gpus: Vec<Vec<(u32, u32, u32)>>,
}

/// An expert or a GPU with its load; the greatest has the most, of equal ones the first.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    load: f64,
    at: usize,
}

type Heap = BinaryHeap<Ranked>;

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.load.total_cmp(&other.load).then(other.at.cmp(&self.at))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl Placement {
    /// The placement with a code: 0 in order, 1 balanced, n ≥ 2 balanced with n − 1 copies.
    pub fn of(code: u16) -> Self {
        match code {
            0 => Self::Contiguous,
            1 => Self::Balanced,
            more => Self::Replicated(more - 1),
        }
    }

    /// Copies besides the experts themselves.
    pub fn more(self) -> usize {
        match self {
            Self::Replicated(more) => usize::from(more),
            _ => 0,
        }
    }

    /// Deals experts of these loads to GPUs.
    pub fn place(self, loads: &[f64], gpus: usize) -> Placed {
        let experts = loads.len();
        let each = (experts + self.more()).div_ceil(gpus).max(1);
        let mut placed = Placed { gpus: vec![Vec::with_capacity(each); gpus] };
        if self == Self::Contiguous {
            for expert in 0..experts {
                placed.gpus[(expert / each).min(gpus - 1)].push((expert as u32, 0, 1));
            }
            return placed;
        }
        let mut copies = vec![1_u32; experts];
        let of = |expert: usize, copies: &[u32]| loads[expert] / f64::from(copies[expert]);
        let mut hottest = Heap::default();
        if self.more() > 0 {
            hottest.extend((0..experts).map(|expert| Ranked { load: of(expert, &copies), at: expert }));
        }
        for _ in 0..self.more() {
            if let Some(mut first) = hottest.peek_mut() {
                copies[first.at] += 1;
                first.load = of(first.at, &copies);
            }
        }
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| of(*b, &copies).total_cmp(&of(*a, &copies)));
        // By negative load, so that the idlest comes first.
        let mut idlest: Heap = (0..gpus).map(|gpu| Ranked { load: -0.0, at: gpu }).collect();
        for expert in order {
            for copy in 0..copies[expert] {
                let Some(Ranked { load, at }) = idlest.pop() else { return placed };
                placed.gpus[at].push((expert as u32, copy, copies[expert]));
                if placed.gpus[at].len() < each {
                    idlest.push(Ranked { load: load - of(expert, &copies), at });
                }
            }
        }
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_popular_are_dealt_apart_and_copied() {
        let loads = [9.0, 8.0, 1.0, 1.0];
        let of = |placement: Placement| -> Vec<Vec<u32>> {
            let placed = placement.place(&loads, 2);
            placed.gpus.iter().map(|copies| copies.iter().map(|(expert, ..)| *expert).collect()).collect()
        };
        assert_eq!(of(Placement::Contiguous), [[0, 1], [2, 3]]);
        assert_eq!(of(Placement::Balanced), [[0, 3], [1, 2]]);
        assert_eq!(of(Placement::Replicated(2)), [[0, 1, 2], [0, 1, 3]]);
    }
}
