//! Matrix products: tiles, waves and split-K.

use super::lanes::{Basis, LANES, Lane, ceiling};
use crate::einsum::shape::Poly;

/// Ways of cutting the depth that are tried.
pub const SPLITS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// One product on one GPU.
#[derive(Clone, Debug)]
pub struct Product {
    /// Batch count.
    pub batch: Poly,
    /// Rows M; of a grouped product unused, its rows come from the experts hit.
    pub rows: Poly,
    /// Columns N.
    pub columns: Poly,
    /// Depth K.
    pub depth: Poly,
    /// Seconds of one FLOP on one SM at the reached rate.
    pub seconds_per_flop: f64,
    /// Rows come from the experts hit, batch is their number.
    pub grouped: bool,
}

/// Tiles and SMs.
#[derive(Clone, Debug)]
pub struct Tiling {
    /// Candidate tiles.
    pub tiles: Vec<(f64, f64)>,
    /// SMs the kernel may use.
    pub sms: f64,
}

impl Tiling {
    /// Adds the best time of `product` to `time`; `experts` are (hit experts, rows of each).
    pub fn add(&self, product: &Product, basis: &Basis, experts: Option<(&Lane, &Lane)>, time: &mut Lane) {
        let (batch, rows) = match experts {
            Some((hit, rows)) if product.grouped => (*hit, *rows),
            _ => (basis.value(&product.batch), basis.value(&product.rows)),
        };
        let mut best = [f64::INFINITY; LANES];
        let inverse_sms = 1.0 / self.sms;
        match (product.columns.as_constant(), product.depth.as_constant()) {
            (Some(columns), Some(depth)) => {
                for &(m, n) in &self.tiles {
                    let across = ceiling(columns * (1.0 / n));
                    let inverse_m = 1.0 / m;
                    for split in SPLITS {
                        let wave = 2.0 * m * n * depth * product.seconds_per_flop / split;
                        for i in 0..LANES {
                            let tiles = ceiling(batch[i] * ceiling(rows[i] * inverse_m) * across);
                            let time = ceiling(tiles * split * inverse_sms) * wave;
                            best[i] = if time < best[i] { time } else { best[i] };
                        }
                    }
                }
            }
            _ => {
                let (columns, depth) = (basis.value(&product.columns), basis.value(&product.depth));
                for &(m, n) in &self.tiles {
                    for split in SPLITS {
                        let wave = 2.0 * m * n * product.seconds_per_flop / split;
                        for i in 0..LANES {
                            let tiles = ceiling(batch[i] * ceiling(rows[i] / m) * ceiling(columns[i] / n));
                            let time = ceiling(tiles * split * inverse_sms) * wave * depth[i];
                            best[i] = if time < best[i] { time } else { best[i] };
                        }
                    }
                }
            }
        }
        for i in 0..LANES {
            time[i] += best[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::lanes::ZERO;

    #[test]
    fn one_more_row_than_a_tile_costs_a_wave() {
        let tiling = Tiling { tiles: vec![(128.0, 128.0)], sms: 4.0 };
        let product = |rows| Product {
            batch: Poly::constant(1.0),
            rows: Poly::constant(rows),
            columns: Poly::constant(512.0),
            depth: Poly::constant(64.0),
            seconds_per_flop: 1e-12,
            grouped: false,
        };
        let basis = Basis::new(&ZERO, &ZERO, &ZERO, &ZERO);
        let time = |rows| {
            let mut t = ZERO;
            tiling.add(&product(rows), &basis, None, &mut t);
            t[0]
        };
        assert_eq!(time(128.0), 2.0 * 128.0 * 128.0 * 64.0 * 1e-12);
        assert_eq!(time(129.0), 2.0 * time(128.0));
    }
}
