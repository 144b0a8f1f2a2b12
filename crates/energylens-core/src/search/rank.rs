//! Non-dominated ranks and crowding distances.

use super::Individual;
use crate::reduce::front::dominates;
use crate::system::stop::stopped;

/// Points ranked between two checks of whether to stop.
const ROWS_PER_CHECK: usize = 64;

/// Standing of an individual: its place in the list, its rank (0 is best), and how far its neighbours are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Place in the list that was ranked.
    pub at: usize,
    /// Non-dominated rank; those that violate something come after all others, by how much.
    pub rank: u32,
    /// Crowding distance.
    pub crowding: f64,
}

impl Ranked {
    /// Whether it wins against another in a tournament.
    pub fn beats(&self, other: &Self) -> bool {
        self.rank < other.rank || (self.rank == other.rank && self.crowding > other.crowding)
    }
}

/// The best `most`, by rank, then by crowding within the last rank taken; ties by order in the list. Any, if it is stopped.
pub fn survivors(all: &[Individual], most: usize) -> Vec<Ranked> {
    let feasible: Vec<usize> = (0..all.len()).filter(|i| all[*i].violation == 0.0).collect();
    let rows: Vec<&[f64]> = feasible.iter().map(|i| all[*i].objectives.as_slice()).collect();
    let ranks = ranks(&rows);
    if stopped() {
        return Vec::new();
    }
    let fronts = ranks.iter().max().map_or(0, |rank| rank + 1);
    let mut by_rank: Vec<Vec<usize>> = vec![Vec::new(); fronts as usize];
    ranks.iter().enumerate().for_each(|(row, rank)| by_rank[*rank as usize].push(row));
    let mut chosen = Vec::with_capacity(most.min(all.len()));
    for (rank, members) in by_rank.iter().enumerate() {
        if chosen.len() >= most || stopped() {
            return chosen;
        }
        let distances = crowding(&rows, members);
        let mut front: Vec<Ranked> = members
            .iter()
            .zip(distances)
            .map(|(row, crowding)| Ranked { at: feasible[*row], rank: rank as u32, crowding })
            .collect();
        if chosen.len() + front.len() > most {
            front.sort_by(|a, b| b.crowding.total_cmp(&a.crowding).then(a.at.cmp(&b.at)));
            front.truncate(most - chosen.len());
        }
        chosen.extend(front);
    }
    let mut violating: Vec<usize> = (0..all.len()).filter(|i| all[*i].violation > 0.0).collect();
    violating.sort_by(|a, b| all[*a].violation.total_cmp(&all[*b].violation).then(a.cmp(b)));
    let places = violating.into_iter().zip(fronts..).take(most - chosen.len());
    chosen.extend(places.map(|(at, rank)| Ranked { at, rank, crowding: 0.0 }));
    chosen
}

/// Points of one rank, ready to tell whether one of them dominates a point that sorts after all of them.
#[derive(Default)]
struct Layer {
    /// With three objectives, those that matter by the last two: the second rises, the third falls.
    stairs: Vec<(f64, f64)>,
    rows: Vec<usize>,
}

impl Layer {
    fn dominates(&self, rows: &[&[f64]], row: &[f64]) -> bool {
        match row {
            [] | [_] => !self.rows.is_empty(),
            [_, second] => self.stairs.last().is_some_and(|(_, least)| least <= second),
            [_, second, third] => {
                let place = self.stairs.partition_point(|(other, _)| other <= second);
                place > 0 && self.stairs[place - 1].1 <= *third
            }
            _ => self.rows.iter().rev().any(|have| dominates(rows[*have], row)),
        }
    }

    fn add(&mut self, at: usize, row: &[f64]) {
        match row {
            [_, second] => self.stairs = vec![(0.0, *second)],
            [_, second, third] => {
                let from = self.stairs.partition_point(|(other, _)| other < second);
                let until = from + self.stairs[from..].iter().take_while(|(_, other)| other >= third).count();
                self.stairs.splice(from..until, [(*second, *third)]);
            }
            _ => {}
        }
        self.rows.push(at);
    }
}

/// Non-dominated rank of each row: n log² n for up to three objectives, by layers searched in halves (Zhang et al. 2015).
pub fn ranks(rows: &[&[f64]]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let compare = |a: &usize, b: &usize| {
        let differs = rows[*a].iter().zip(rows[*b]).map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne());
        differs.unwrap_or_else(|| a.cmp(b))
    };
    order.sort_unstable_by(compare);
    let mut layers: Vec<Layer> = Vec::new();
    let mut ranks = vec![0; rows.len()];
    let mut previous: Option<usize> = None;
    for (turn, at) in order.into_iter().enumerate() {
        if turn % ROWS_PER_CHECK == 0 && stopped() {
            break;
        }
        let row = rows[at];
        if let Some(same) = previous.filter(|same| rows[*same] == row) {
            ranks[at] = ranks[same];
            continue;
        }
        // What a layer dominates, all layers before it dominate too.
        let rank = layers.partition_point(|layer| layer.dominates(rows, row));
        if rank == layers.len() {
            layers.push(Layer::default());
        }
        layers[rank].add(at, row);
        ranks[at] = rank as u32;
        previous = Some(at);
    }
    ranks
}

/// Crowding distance of each member: the gaps between its neighbours, each over its objective's range.
fn crowding(rows: &[&[f64]], members: &[usize]) -> Vec<f64> {
    let mut distances = vec![0.0; members.len()];
    let width = rows.first().map_or(0, |row| row.len());
    let mut order: Vec<usize> = (0..members.len()).collect();
    for objective in 0..width {
        let value = |i: usize| rows[members[i]][objective];
        order.sort_unstable_by(|a, b| value(*a).total_cmp(&value(*b)).then(a.cmp(b)));
        let (Some(first), Some(last)) = (order.first(), order.last()) else { continue };
        let range = value(*last) - value(*first);
        distances[*first] = f64::INFINITY;
        distances[*last] = f64::INFINITY;
        if range > 0.0 {
            for i in 1..order.len().saturating_sub(1) {
                distances[order[i]] += (value(order[i + 1]) - value(order[i - 1])) / range;
            }
        }
    }
    distances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        let rows = [[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [2.0, 4.0], [4.0, 4.0], [2.0, 2.0]];
        let rows: Vec<&[f64]> = rows.iter().map(<[f64; 2]>::as_slice).collect();
        assert_eq!(ranks(&rows), [0, 0, 0, 1, 2, 0]);
    }

    #[test]
    fn the_most_crowded_are_dropped_first() {
        let point = |key: u64, x: f64| Individual { key, objectives: vec![x, 10.0 - x], violation: 0.0 };
        let all = [point(0, 0.0), point(1, 1.0), point(2, 1.5), point(3, 5.0), point(4, 10.0)];
        let mut chosen: Vec<usize> = survivors(&all, 4).iter().map(|ranked| ranked.at).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 2, 3, 4]);
    }
}
