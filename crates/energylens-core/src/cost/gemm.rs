//! Matrix products: tiles, waves and split-K (Eq. 5.5), and those of experts (Eq. 6.8).

use std::sync::{Arc, OnceLock};

use crate::numeric::lanes::{Basis, LANES, Lane, ceiling};
use crate::numeric::shape::Poly;
use crate::routing::Table;
use crate::routing::table::{Places, TILE_ROWS};

/// Parts into which the depth may be split (k of Eq. 5.5); grouped products are not split.
const SPLITS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// Rows that a table of times covers, in units of the smallest tile; beyond, times are computed.
const TABLE_UNITS: usize = 1024;

/// One matrix product on one GPU, sizes local and as polynomials of the pass.
#[derive(Clone, Debug)]
pub struct Product {
    /// How many products of this size: I.
    pub batch: Poly,
    /// Rows M; unused by a grouped product, whose tiles come from the table of routing.
    pub rows: Poly,
    /// Columns N.
    pub columns: Poly,
    /// Depth K.
    pub depth: Poly,
    /// Seconds of one FLOP on one SM at the rate reached: `S/(peak·compute_efficiency)`.
    pub seconds_per_flop: f64,
    /// What a grouped product (of experts) adds.
    pub grouped: Option<Grouped>,
    /// Seconds by rows in units of the smallest tile, filled at the first look-up.
    pub table: OnceLock<Vec<f64>>,
}

/// What a grouped product needs to know of the experts.
#[derive(Clone, Debug)]
pub struct Grouped {
    /// Tiles of the busiest GPU by tokens of the pool.
    pub table: Arc<Table>,
    /// Share of the experts not hit that it works on all the same (ι), and the experts of a GPU (X_ℓ).
    pub idle: (f64, f64),
}

impl PartialEq for Grouped {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table) && self.idle == other.idle
    }
}

impl PartialEq for Product {
    fn eq(&self, other: &Self) -> bool {
        self.batch == other.batch
            && self.rows == other.rows
            && self.columns == other.columns
            && self.depth == other.depth
            && self.seconds_per_flop == other.seconds_per_flop
            && self.grouped == other.grouped
    }
}

impl Product {
    /// Bytes it holds in memory; with the table it will have, if it is used with one.
    pub fn bytes(&self, tables: bool) -> usize {
        let table = if tables && self.grouped.is_none() { (TABLE_UNITS + LANES + 1) * size_of::<f64>() } else { 0 };
        [&self.batch, &self.rows, &self.columns, &self.depth].map(Poly::bytes).iter().sum::<usize>() + table
    }

    /// Parts into which its depth may be split.
    fn splits(&self) -> &'static [f64] {
        if self.grouped.is_some() { &SPLITS[..1] } else { &SPLITS }
    }
}

/// The tiles and SMs that a kernel's products choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiling {
    /// Candidate tiles: rows m, columns n, share of the rate that the tile reaches.
    pub tiles: Vec<(f64, f64, f64)>,
    /// SMs the kernel may use.
    pub sms: f64,
    /// Depth that the beginning and end of a tile are worth: K_0.
    pub depth_0: f64,
    /// Seconds of adding up the parts of a split depth.
    pub split_s: f64,
    /// Fewest rows of a tile. Times change at its multiples only, as rows of tiles are powers of two: that is why a table works.
    unit: f64,
}

impl Tiling {
    /// Leaves out candidate tiles that another of no smaller share divides: they never win.
    pub fn new(candidates: &[(f64, f64, f64)], sms: f64, depth_0: f64, split_s: f64) -> Self {
        type Tile = (f64, f64, f64);
        let divides = |a: &Tile, b: &Tile| a != b && b.0 % a.0 == 0.0 && b.1 % a.1 == 0.0 && a.2 >= b.2;
        let mut tiles = candidates.to_vec();
        tiles.dedup();
        tiles.retain(|tile| !candidates.iter().any(|other| divides(other, tile)));
        let unit = tiles.iter().map(|(m, ..)| *m).fold(f64::INFINITY, f64::min);
        Self { tiles, sms, depth_0, split_s, unit }
    }

    /// Adds the seconds of `product` to `time`: the best of tiles and splits (Eq. 5.5; of experts Eq. 6.8).
    ///
    /// `experts` are the rows of the routing table and the experts hit on the busiest GPU; `tables` looks times up by rows,
    /// with the same bits.
    #[inline(always)]
    pub fn add<const L: usize>(
        &self,
        product: &Product,
        basis: &Basis<L>,
        experts: (&Places<L>, &Lane<L>),
        tables: bool,
        time: &mut Lane<L>,
    ) {
        let constants = (product.columns.as_constant(), product.depth.as_constant(), product.batch.as_constant());
        let best = match constants {
            (Some(columns), Some(depth), _) if let Some(grouped) = &product.grouped => {
                self.grouped(grouped, experts, columns, depth, product)
            }
            (Some(columns), Some(depth), Some(batch)) => {
                let rows = basis.value(&product.rows);
                let unit = 1.0 / self.unit;
                let limit = self.unit * TABLE_UNITS as f64;
                if tables && rows.iter().all(|rows| *rows <= limit) {
                    let table = product.table.get_or_init(|| self.table(product, columns, depth, batch));
                    let mut seconds = [0.0; L];
                    for i in 0..L {
                        seconds[i] = table.get(ceiling(rows[i] * unit) as usize).copied().unwrap_or(f64::INFINITY);
                    }
                    seconds
                } else {
                    self.best(&[batch; L], &rows, columns, depth, product)
                }
            }
            _ => self.general(product, basis),
        };
        for i in 0..L {
            time[i] += best[i];
        }
    }

    /// Seconds for 0, 1, ... units of rows, by the same arithmetic as without a table.
    fn table(&self, product: &Product, columns: f64, depth: f64, batch: f64) -> Vec<f64> {
        let mut table = Vec::with_capacity(TABLE_UNITS + LANES + 1);
        while table.len() <= TABLE_UNITS {
            let rows: Lane = std::array::from_fn(|i| (table.len() + i) as f64 * self.unit);
            table.extend(self.best(&[batch; LANES], &rows, columns, depth, product));
        }
        table
    }

    /// Best of tiles and splits where columns and depth are the same for all lanes (Eq. 5.5).
    #[inline(always)]
    fn best<const L: usize>(
        &self,
        batch: &Lane<L>,
        rows: &Lane<L>,
        columns: f64,
        depth: f64,
        product: &Product,
    ) -> Lane<L> {
        let splits = product.splits();
        let mut best = [f64::INFINITY; L];
        let inverse_sms = 1.0 / self.sms;
        for &(m, n, share) in &self.tiles {
            let across = ceiling(columns * (1.0 / n));
            let inverse_m = 1.0 / m;
            let mut tiles = [0.0; L];
            for i in 0..L {
                tiles[i] = ceiling(batch[i] * ceiling(rows[i] * inverse_m) * across) * inverse_sms;
            }
            for &split in splits {
                let wave = 2.0 * m * n * (depth / split + self.depth_0) * (product.seconds_per_flop / share);
                let joined = if split > 1.0 { self.split_s } else { 0.0 };
                for i in 0..L {
                    let time = ceiling(tiles[i] * split) * wave + joined;
                    best[i] = if time < best[i] { time } else { best[i] };
                }
            }
        }
        best
    }

    /// Best of the tiles of a grouped product on the busiest GPU (Eq. 6.8).
    #[inline(always)]
    fn grouped<const L: usize>(
        &self,
        grouped: &Grouped,
        (places, busy_hits): (&Places<L>, &Lane<L>),
        columns: f64,
        depth: f64,
        product: &Product,
    ) -> Lane<L> {
        let mut best = [f64::INFINITY; L];
        let inverse_sms = 1.0 / self.sms;
        let (share_idle, local) = grouped.idle;
        for &(m, n, share) in &self.tiles {
            let at = TILE_ROWS.iter().position(|rows| f64::from(*rows) >= m).unwrap_or(TILE_ROWS.len() - 1);
            let tiles = grouped.table.tiles(at, places);
            let across = ceiling(columns * (1.0 / n));
            let wave = 2.0 * m * n * (depth + self.depth_0) * (product.seconds_per_flop / share);
            for i in 0..L {
                let all = tiles[i] + share_idle * (local - busy_hits[i]); // W'_m of Eq. 6.7
                let time = ceiling(ceiling(all * across) * inverse_sms) * wave;
                best[i] = if time < best[i] { time } else { best[i] };
            }
        }
        best
    }

    /// Best of tiles and splits where columns or depth differ between lanes, as along tokens (Eq. 5.5).
    #[inline(always)]
    fn general<const L: usize>(&self, product: &Product, basis: &Basis<L>) -> Lane<L> {
        let (batch, rows) = (basis.value(&product.batch), basis.value(&product.rows));
        let (columns, depth) = (basis.value(&product.columns), basis.value(&product.depth));
        let mut best = [f64::INFINITY; L];
        let inverse_sms = 1.0 / self.sms;
        for &(m, n, share) in &self.tiles {
            let flop = 2.0 * m * n * (product.seconds_per_flop / share);
            for &split in product.splits() {
                let joined = if split > 1.0 { self.split_s } else { 0.0 };
                for i in 0..L {
                    let tiles = ceiling(batch[i] * ceiling(rows[i] / m) * ceiling(columns[i] / n));
                    let wave = flop * (depth[i] / split + self.depth_0);
                    let time = ceiling(tiles * split * inverse_sms) * wave + joined;
                    best[i] = if time < best[i] { time } else { best[i] };
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::lanes::ZERO;
    use crate::routing::table::places;

    fn product(rows: Poly) -> Product {
        Product {
            batch: Poly::constant(1.0),
            rows,
            columns: Poly::constant(512.0),
            depth: Poly::constant(64.0),
            seconds_per_flop: 1e-12,
            grouped: None,
            table: OnceLock::new(),
        }
    }

    fn time(tiling: &Tiling, rows: &Lane, tables: bool) -> Lane {
        let basis = Basis::new(rows, &ZERO, &ZERO, &ZERO);
        let mut time = ZERO;
        tiling.add(&product(Poly::monomial(1, 1.0)), &basis, (&places(&ZERO), &ZERO), tables, &mut time);
        time
    }

    #[test]
    fn one_more_row_than_a_tile_costs_a_wave() {
        let tiling = Tiling::new(&[(128.0, 128.0, 1.0)], 4.0, 0.0, 1.0);
        let at = |rows: f64| time(&tiling, &[rows; LANES], false)[0];
        assert_eq!(at(128.0), 2.0 * 128.0 * 128.0 * 64.0 * 1e-12);
        assert_eq!(at(129.0), 2.0 * at(128.0));
    }

    #[test]
    fn a_tile_that_a_better_one_divides_is_left_out() {
        let tiling = Tiling::new(
            &[(16.0, 128.0, 0.7), (64.0, 64.0, 0.8), (64.0, 128.0, 0.8), (128.0, 256.0, 1.0)],
            132.0,
            0.0,
            0.0,
        );
        assert_eq!(tiling.tiles, [(16.0, 128.0, 0.7), (64.0, 64.0, 0.8), (128.0, 256.0, 1.0)]);
    }

    #[test]
    fn a_table_gives_the_same_bits() {
        let tiling = Tiling::new(&[(16.0, 128.0, 0.7), (64.0, 64.0, 0.8), (128.0, 256.0, 1.0)], 132.0, 170.0, 2e-6);
        for scale in [0.3, 1.0, 7.25, 100.0, 255.9] {
            let rows: Lane = std::array::from_fn(|i| (i + 1) as f64 * scale);
            assert_eq!(time(&tiling, &rows, true), time(&tiling, &rows, false));
        }
        assert_eq!(time(&tiling, &[1e6; LANES], true), time(&tiling, &[1e6; LANES], false));
    }
}
