//! Sums of whole row and lane values: the different ones, in an order in which the lanes of a row are neighbours.

use crate::numeric::lanes::LANES;

/// Sums of a row value and a lane value: their different values, and where those of a row begin.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) values: Vec<f64>,
    pub(super) begins: Vec<u32>,
}

/// Largest share of different sums for which looking them up is worth their order: below, at least a quarter is saved.
const MOST_DIFFERENT: f64 = 0.75;

/// Greatest common divisor of two whole numbers.
fn divisor(a: f64, b: f64) -> f64 {
    let (mut a, mut b) = (a, b);
    while b > 0.0 {
        (a, b) = (b, a % b);
    }
    a
}

/// An even grid that holds all sums of whole row and lane values.
pub(super) struct Grid {
    least: f64,
    step: f64,
    grid: f64,
    /// Number of its points.
    pub(super) different: f64,
}

impl Grid {
    /// The grid of some rows and lanes; none if lane values are not evenly spaced, or too few sums repeat.
    pub(super) fn of(rows: &[f64], lanes: &[f64]) -> Option<Self> {
        let step = lanes.get(1)? - lanes[0];
        let even = step > 0.0 && lanes.windows(2).all(|pair| pair[1] - pair[0] == step);
        let least = rows.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rows.iter().copied().fold(0.0, f64::max);
        let grid = rows.iter().fold(step, |grid, row| divisor(grid, row - least));
        let different = (most - least + step * (lanes.len() - 1) as f64) / grid + 1.0;
        let worthwhile = even && different <= MOST_DIFFERENT * (rows.len() * lanes.len()) as f64;
        worthwhile.then_some(Self { least, step, grid, different })
    }
}

impl Sums {
    /// Lists the sums of whole numbers, times `scale`; lane after lane for each row if few of them repeat.
    pub(super) fn fill(&mut self, rows: &[f64], lanes: &[f64], scale: f64) {
        let (values, begins) = (&mut self.values, &mut self.begins);
        values.clear();
        begins.clear();
        if let Some(Grid { least, step, grid, different }) = Grid::of(rows, lanes) {
            // Every stride-th value is a neighbour of the next lane: those of one remainder are stored together.
            let (stride, different) = ((step / grid) as usize, different as usize);
            let length = different.div_ceil(stride);
            for remainder in 0..stride {
                values.extend((0..length).map(|i| {
                    let k = (remainder + i * stride).min(different - 1);
                    (least + lanes[0] + k as f64 * grid) * scale
                }));
            }
            begins.extend(rows.iter().map(|row| {
                let k = ((row - least) / grid) as usize;
                ((k % stride) * length + k / stride) as u32
            }));
        } else {
            for row in rows {
                begins.push(values.len() as u32);
                values.extend(lanes.iter().map(|lane| (row + lane) * scale));
            }
        }
        pad(values);
    }
}

/// Repeats the last value so that whole blocks can be read.
pub(super) fn pad(values: &mut Vec<f64>) {
    let last = values.last().copied().unwrap_or(1.0);
    values.resize(values.len() + LANES, last);
}
