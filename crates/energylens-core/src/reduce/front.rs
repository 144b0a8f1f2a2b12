//! Non-dominated points: streaming, mergeable, in up to six objectives, all minimised.

use super::MOST_OBJECTIVES;
use crate::numeric::lanes::{LANES, Lane};
use crate::system::stop::stopped;

/// Members that lately dominated others (pivots): tried first, on whole blocks.
const PIVOTS: usize = 24;

/// Most points with equal objectives: those of the lowest indices are on the front.
const MOST_TIES: usize = 4096;

/// Objectives; those beyond the width are zero.
pub type Vector = [f64; MOST_OBJECTIVES];

/// The Pareto front: points that no other dominates. Ties are on it; with a resolution, one point for each distinguishable vector.
///
/// Members are sorted by their objectives. With two objectives the second falls as the first rises, so one look decides.
#[derive(Clone, Debug, Default)]
pub struct Front {
    width: usize,
    mask: Option<u64>,
    /// What is compared: the objectives, or their leading bits.
    keys: Vec<Vector>,
    /// Objectives, and the points that have them.
    members: Vec<(Vector, Vec<u64>)>,
    pivots: Vec<Vector>,
}

/// A point on the front.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Index of the point.
    pub index: u64,
    /// Objectives, smaller is better.
    pub objectives: Vec<f64>,
}

/// Whether `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    no_worse(a, b) && a.iter().zip(b).any(|(x, y)| x < y)
}

fn no_worse(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(x, y)| x <= y)
}

fn before(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).find(|(x, y)| x != y).is_some_and(|(x, y)| x < y)
}

/// Points between two checks of whether to stop.
pub(super) const OFFERS_PER_CHECK: usize = 64;

/// Positions of rows of one width that nothing dominates, ascending; any, if it is stopped.
pub fn non_dominated(rows: &[Vec<f64>]) -> Vec<u64> {
    let mut front = Front::new(rows.first().map_or(0, Vec::len), None);
    for (index, row) in rows.iter().enumerate() {
        if index % OFFERS_PER_CHECK == 0 && stopped() {
            break;
        }
        front.offer(index as u64, row);
    }
    front.members().iter().map(|member| member.index).collect()
}

impl Front {
    /// An empty front in `width` objectives, which differ in the first `resolution` bits of their mantissas, or in any.
    pub fn new(width: usize, resolution: Option<u32>) -> Self {
        let mask = resolution.map(|bits| !0_u64 << (52 - bits.min(52)));
        Self { width: width.min(MOST_OBJECTIVES), mask, ..Self::default() }
    }

    /// Starts from the pivots of another front over the same space.
    pub fn learn(&mut self, other: &Self) {
        self.pivots = other.pivots.clone();
    }

    /// Offers a point.
    pub fn offer(&mut self, index: u64, objectives: &[f64]) {
        let mut vector = [0.0; MOST_OBJECTIVES];
        vector.iter_mut().zip(objectives).for_each(|(slot, value)| *slot = *value);
        self.offer_all(&[index], vector);
    }

    /// Offers those points of a block that are alive; `first`, `first + stride`, ... are their indices.
    #[inline(always)]
    pub fn block(&mut self, first: u64, stride: u64, objectives: &[Lane; MOST_OBJECTIVES], alive: &mut [u64; LANES]) {
        let mask = self.mask.unwrap_or(!0);
        let mut keys = *objectives;
        for key in keys.iter_mut().take(self.width) {
            for i in 0..LANES {
                key[i] = f64::from_bits(key[i].to_bits() & mask);
            }
        }
        for pivot in 0..self.pivots.len() {
            let vector = &self.pivots[pivot];
            let mut left = 0;
            let mut beaten = *alive;
            let mut strictly = [0_u64; LANES];
            for (key, value) in keys.iter().zip(vector).take(self.width) {
                for i in 0..LANES {
                    beaten[i] &= u64::from(*value <= key[i]);
                    strictly[i] |= u64::from(*value < key[i]);
                }
            }
            for i in 0..LANES {
                alive[i] &= !(beaten[i] & strictly[i]);
                left += alive[i];
            }
            if left == 0 {
                self.pivots[..=pivot].rotate_right(1);
                return;
            }
        }
        self.survivors(first, stride, objectives, alive);
    }

    /// Whether every point that is nowhere better than this is dominated, as far as the pivots show.
    pub fn rejects(&mut self, least: &Vector) -> bool {
        let (key, width) = (self.key(least), self.width);
        let beats = |pivot: &Vector| dominates(&pivot[..width], &key[..width]);
        let Some(at) = self.pivots.iter().position(beats) else { return false };
        self.pivots[..=at].rotate_right(1);
        true
    }

    #[inline(never)]
    fn survivors(&mut self, first: u64, stride: u64, objectives: &[Lane; MOST_OBJECTIVES], alive: &[u64; LANES]) {
        for i in (0..LANES).filter(|i| alive[*i] != 0) {
            let mut vector = [0.0; MOST_OBJECTIVES];
            vector.iter_mut().zip(objectives).take(self.width).for_each(|(slot, lane)| *slot = lane[i]);
            self.offer_all(&[first + i as u64 * stride], vector);
        }
    }

    fn key(&self, vector: &Vector) -> Vector {
        self.mask.map_or(*vector, |mask| vector.map(|value| f64::from_bits(value.to_bits() & mask)))
    }

    fn offer_all(&mut self, indices: &[u64], vector: Vector) {
        let width = self.width;
        let key = self.key(&vector);
        // A member that is no worse sorts before the key, or is equal to it.
        let place = self.keys.partition_point(|have| before(&have[..width], &key[..width]));
        if self.keys.get(place).is_some_and(|have| have[..width] == key[..width]) {
            self.tie(place, indices, &vector);
            return;
        }
        let beaten_by = match width {
            0..=2 => place.checked_sub(1).filter(|at| no_worse(&self.keys[*at][..width], &key[..width])),
            _ => self.keys[..place].iter().rposition(|have| no_worse(&have[..width], &key[..width])),
        };
        if let Some(at) = beaten_by {
            self.remember(at);
            return;
        }
        let beats = |have: &Vector| no_worse(&key[..width], &have[..width]);
        if width <= 2 {
            let count = self.keys[place..].iter().take_while(|have| beats(have)).count();
            self.keys.splice(place..place + count, [key]);
            self.members.splice(place..place + count, [(vector, indices.to_vec())]);
        } else {
            if self.keys[place..].iter().any(beats) {
                let keep: Vec<bool> = self.keys.iter().enumerate().map(|(i, have)| i < place || !beats(have)).collect();
                let mut flags = keep.iter().copied();
                self.keys.retain(|_| flags.next().unwrap_or(true));
                let mut flags = keep.iter().copied();
                self.members.retain(|_| flags.next().unwrap_or(true));
            }
            self.keys.insert(place, key);
            self.members.insert(place, (vector, indices.to_vec()));
        }
    }

    fn tie(&mut self, place: usize, indices: &[u64], vector: &Vector) {
        let (have, points) = &mut self.members[place];
        if self.mask.is_none() {
            points.extend_from_slice(indices);
            if points.len() > 2 * MOST_TIES {
                points.sort_unstable();
                points.truncate(MOST_TIES);
            }
            return;
        }
        let better = before(&vector[..self.width], &have[..self.width]);
        let equal = vector[..self.width] == have[..self.width];
        let least = indices.iter().min().copied().unwrap_or(u64::MAX);
        if better || (equal && points.first().is_some_and(|index| least < *index)) {
            (*have, *points) = (*vector, vec![least]);
        }
    }

    /// Tries a member first from now on.
    fn remember(&mut self, at: usize) {
        let vector = self.keys[at];
        if self.pivots.contains(&vector) {
            return;
        }
        self.pivots.truncate(PIVOTS - 1);
        self.pivots.insert(0, vector);
    }

    /// Takes over another front; part of it, if it is stopped.
    pub fn merge(&mut self, other: Self) {
        for (at, (vector, indices)) in other.members.into_iter().enumerate() {
            if at % OFFERS_PER_CHECK == 0 && stopped() {
                return;
            }
            self.offer_all(&indices, vector);
        }
        for pivot in other.pivots {
            if self.pivots.len() < PIVOTS && !self.pivots.contains(&pivot) {
                self.pivots.push(pivot);
            }
        }
    }

    /// Members by index.
    pub fn members(&self) -> Vec<Member> {
        let spread = |(objectives, indices): &(Vector, Vec<u64>)| {
            let mut indices = indices.clone();
            indices.sort_unstable();
            indices.truncate(MOST_TIES);
            let objectives = objectives[..self.width].to_vec();
            indices.into_iter().map(move |index| Member { index, objectives: objectives.clone() })
        };
        let mut members: Vec<Member> = self.members.iter().flat_map(spread).collect();
        members.sort_by_key(|m| m.index);
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_does_not_depend_on_the_order() {
        let points = [[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [5.0, 1.0], [2.0, 2.0], [1.0, 6.0]];
        let run = |order: &[usize]| {
            let mut halves = [Front::new(2, None), Front::new(2, None)];
            for &i in order {
                halves[i % 2].offer(i as u64, &points[i]);
            }
            let [mut a, b] = halves;
            a.merge(b);
            a.members().iter().map(|m| m.index).collect::<Vec<_>>()
        };
        assert_eq!(run(&[0, 1, 2, 3, 4, 5]), [0, 1, 3, 4]);
        assert_eq!(run(&[5, 4, 3, 2, 1, 0]), [0, 1, 3, 4]);
    }

    #[test]
    fn a_resolution_keeps_one_point_near_each() {
        let mut front = Front::new(2, Some(4));
        for i in 0..1000_u64 {
            let x = 1.0 + i as f64 / 1000.0;
            front.offer(i, &[x, 3.0 - x]);
        }
        let members = front.members();
        assert!((16..=40).contains(&members.len()), "{}", members.len());
        for i in 0..1000 {
            let x = 1.0 + f64::from(i) / 1000.0;
            let near = |m: &Member| m.objectives[0] <= x * 1.0625 && m.objectives[1] <= (3.0 - x) * 1.0625;
            assert!(members.iter().any(near), "{x}");
        }
    }
}
