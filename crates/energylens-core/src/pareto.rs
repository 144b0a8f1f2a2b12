//! Non-dominated points: streaming, mergeable, in any number of objectives, all minimised.

/// Points no other point beats; ties are kept, in order of index.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Different objective vectors, each with the points that have it.
    vectors: Vec<(Vec<f64>, Vec<u64>)>,
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

impl Front {
    /// Offers a point.
    pub fn offer(&mut self, index: u64, objectives: &[f64]) {
        self.offer_all(&[index], objectives);
    }

    fn offer_all(&mut self, indices: &[u64], objectives: &[f64]) {
        if let Some(at) = self.vectors.iter().position(|(have, _)| no_worse(have, objectives)) {
            let (have, points) = &mut self.vectors[at];
            if have == objectives {
                points.extend_from_slice(indices);
            }
            // What beats one point often beats the next: look there first.
            self.vectors.swap(0, at);
            return;
        }
        self.vectors.retain(|(have, _)| !no_worse(objectives, have));
        self.vectors.push((objectives.to_vec(), indices.to_vec()));
    }

    /// Takes over another front.
    pub fn merge(&mut self, other: Self) {
        for (objectives, indices) in other.vectors {
            self.offer_all(&indices, &objectives);
        }
    }

    /// Members by index.
    pub fn into_members(self) -> Vec<Member> {
        let spread = |(objectives, indices): (Vec<f64>, Vec<u64>)| {
            indices.into_iter().map(move |index| Member { index, objectives: objectives.clone() })
        };
        let mut members: Vec<Member> = self.vectors.into_iter().flat_map(spread).collect();
        members.sort_by_key(|m| m.index);
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_nothing_beats_whatever_the_order() {
        let points = [[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [5.0, 1.0], [2.0, 2.0], [1.0, 6.0]];
        let run = |order: &[usize]| {
            let mut halves = [Front::default(), Front::default()];
            for &i in order {
                halves[i % 2].offer(i as u64, &points[i]);
            }
            let [mut a, b] = halves;
            a.merge(b);
            a.into_members().iter().map(|m| m.index).collect::<Vec<_>>()
        };
        assert_eq!(run(&[0, 1, 2, 3, 4, 5]), [0, 1, 3, 4]);
        assert_eq!(run(&[5, 4, 3, 2, 1, 0]), [0, 1, 3, 4]);
    }
}
