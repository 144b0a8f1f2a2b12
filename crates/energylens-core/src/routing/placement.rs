//! Which GPU holds which expert.

/// Which GPU holds which expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Placement {
    /// In order, as many each.
    #[default]
    Contiguous,
    /// As many each, the most popular first, each to the GPU with the least to do.
    Balanced,
    /// The same with this many copies of the most popular besides, tokens shared among copies.
    Replicated(u16),
}

/// Copies of experts on GPUs.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// By GPU: expert, which of its copies, and of how many.
    pub gpus: Vec<Vec<(u32, u32, u32)>>,
}

impl Placement {
    /// From its code: 0 in order, 1 balanced, 2 and more that many copies less one.
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
        for _ in 0..self.more() {
            let hottest = (0..experts).reduce(|a, b| if of(b, &copies) > of(a, &copies) { b } else { a });
            hottest.into_iter().for_each(|expert| copies[expert] += 1);
        }
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| of(*b, &copies).total_cmp(&of(*a, &copies)));
        let mut busy = vec![0.0; gpus];
        for expert in order {
            for copy in 0..copies[expert] {
                let free = (0..gpus).filter(|gpu| placed.gpus[*gpu].len() < each);
                let idlest = free.reduce(|a, b| if busy[b] < busy[a] { b } else { a }).unwrap_or(0);
                busy[idlest] += of(expert, &copies);
                placed.gpus[idlest].push((expert as u32, copy, copies[expert]));
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
            placed.gpus.iter().map(|own| own.iter().map(|(expert, ..)| *expert).collect()).collect()
        };
        assert_eq!(of(Placement::Contiguous), [[0, 1], [2, 3]]);
        assert_eq!(of(Placement::Balanced), [[0, 3], [1, 2]]);
        assert_eq!(of(Placement::Replicated(2)), [[0, 1, 2], [0, 1, 3]]);
    }
}
