//! Loads of the busiest GPU and of a mean one, by routing law, placement and number of tokens.

use std::sync::Arc;

use super::draw::{Draw, Urn, chances};
use super::placement::{Placed, Placement};
use super::{Choice, Law};
use crate::numeric::lanes::Lane;
use crate::system::cache::Cache;
use crate::system::stop::stopped;

/// Rows of tiles that loads are counted in.
pub const TILE_ROWS: [u32; 6] = [8, 16, 32, 64, 128, 256];

/// Experts hit on a mean GPU.
const HITS: usize = 0;
/// Experts hit on the busiest GPU.
const BUSY_HITS: usize = 1;
/// Tokens there.
const BUSY_TOKENS: usize = 2;
/// Tiles there, by [`TILE_ROWS`].
const TILES: usize = 3;
const WIDTH: usize = TILES + TILE_ROWS.len();

/// Steps between a number and its double.
const STEPS: u64 = 4;
/// Doublings the table covers; loads beyond grow with the tokens.
const DOUBLINGS: u64 = 14;
const ROWS: usize = (STEPS * DOUBLINGS) as usize + 1;

/// Tokens up to which choices are drawn one by one; beyond, counts are normal about their means.
const ONE_BY_ONE: u32 = 64;
/// Experts drawn in all, and draws of a law at least and at most.
const DRAWN: usize = 16_384;
const DRAWS: std::ops::RangeInclusive<usize> = 128..=2048;
/// Experts drawn in all at most, unless that were fewer draws than so many.
const MOST_DRAWN: usize = 1 << 19;
const FEWEST_DRAWS: usize = 8;
const SEED: u64 = 2026;

/// Loads by number of tokens.
#[derive(Clone, Debug)]
pub struct Table {
    /// By quantity, then by row.
    values: Box<[[f64; ROWS]; WIDTH]>,
}

/// Experts hit, by point.
#[derive(Clone, Debug)]
pub struct Loads<const L: usize> {
    /// Experts hit on a mean GPU.
    pub hits: Lane<L>,
    /// Experts hit on the busiest GPU.
    pub busy_hits: Lane<L>,
}

/// Where in a table a block of lanes looks.
#[derive(Clone, Debug)]
pub struct Places<const L: usize> {
    row: [u32; L],
    part: Lane<L>,
    scale: Lane<L>,
}

/// The GPU with the most tokens so far.
#[derive(Default)]
struct Busiest<'a> {
    copies: &'a [(u32, u32, u32)],
    tokens: u64,
    hits: u32,
}

/// What a table depends on, its law as bits.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    law: Box<[u64]>,
    choice: Choice,
    placement: Placement,
}

impl Key {
    fn new(law: &Law, choice: Choice, placement: Placement) -> Self {
        let law = match law {
            Law::Balanced => [0].into(),
            Law::Uniform => [1].into(),
            Law::Dirichlet(shape) => [2, shape.to_bits()].into(),
            Law::Zipf(exponent) => [3, exponent.to_bits()].into(),
            Law::PowerLaw(exponent) => [4, exponent.to_bits()].into(),
            // Layers have as many counts as there are experts.
            Law::Counts(layers) => {
                [5].into_iter().chain(layers.iter().flatten().map(|count| count.to_bits())).collect()
            }
        };
        Self { law, choice, placement }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.law) + size_of::<Table>() + WIDTH * ROWS * size_of::<f64>()
    }
}

/// Tables in memory, whichever plan they are for: one takes some ten milliseconds to make, whatever the model's size.
static LATEST: Cache<Key, Arc<Table>> = Cache::new(64 << 20);

/// The table of a law and a placement, made at its first use and cached while there is room, unless making it was stopped.
pub fn known(law: &Law, choice: Choice, placement: Placement) -> Arc<Table> {
    let key = Key::new(law, choice, placement);
    let bytes = key.bytes();
    if let Some(table) = LATEST.get(&key, |_| bytes) {
        return table;
    }
    let table = Arc::new(Table::new(law, choice, placement));
    if !stopped() {
        LATEST.put(key, Arc::clone(&table), bytes);
    }
    table
}

/// Tokens of a row.
fn tokens_of(row: usize) -> f64 {
    let (doubling, step) = (row as u64 / STEPS, row as u64 % STEPS);
    (1_u64 << doubling) as f64 * (1.0 + step as f64 / STEPS as f64)
}

/// Finds the rows of a block of tokens.
#[inline(always)]
pub fn places<const L: usize>(tokens: &Lane<L>) -> Places<L> {
    const SHIFT: u32 = 50;
    const MOST: f64 = (1_u64 << DOUBLINGS) as f64;
    let bits_of_1 = 1.0_f64.to_bits();
    let mut out = Places { row: [0; L], part: [0.0; L], scale: [1.0; L] };
    for i in 0..L {
        let within = if tokens[i] > 1.0 { tokens[i] } else { 1.0 };
        let within = if within < MOST { within } else { MOST };
        let bits = within.to_bits();
        out.row[i] = ((bits >> SHIFT) - (bits_of_1 >> SHIFT)) as u32;
        out.part[i] = (f64::from_bits((bits & ((1 << SHIFT) - 1)) | bits_of_1) - 1.0) * STEPS as f64;
        out.scale[i] = tokens[i] / within;
    }
    out
}

impl Table {
    /// The table of a law and a placement.
    pub fn new(law: &Law, choice: Choice, placement: Placement) -> Self {
        let few = (DRAWN / choice.experts.max(1)).clamp(*DRAWS.start(), *DRAWS.end());
        // With very many experts a few draws are as exact, and take no longer.
        Self::drawn(law, choice, placement, few.min((MOST_DRAWN / choice.experts.max(1)).max(FEWEST_DRAWS)))
    }

    /// The same from so many draws.
    pub fn drawn(law: &Law, choice: Choice, placement: Placement, draws: usize) -> Self {
        let mut table = Self { values: Box::new([[0.0; ROWS]; WIDTH]) };
        match law {
            Law::Balanced => table.balanced(choice, placement),
            Law::PowerLaw(alpha) => table.power_law(*alpha, choice, placement, draws.div_ceil(4)),
            _ => table.choices(law, choice, placement, draws),
        }
        if *law == Law::Uniform && placement.more() == 0 {
            let (experts, miss) = (choice.experts as f64, 1.0 - choice.active as f64 / choice.experts as f64);
            let hits = |row: usize| experts * (1.0 - miss.powi_exact(tokens_of(row)));
            for row in 0..ROWS {
                table.values[HITS][row] = hits(row) / choice.gpus as f64;
            }
        }
        table
    }

    /// The same number of tokens for every expert (Eq. 6.5).
    fn balanced(&mut self, choice: Choice, placement: Placement) {
        let local = (choice.experts + placement.more()) as f64 / choice.gpus as f64;
        for row in 0..ROWS {
            let tokens = tokens_of(row) * choice.active as f64 / choice.gpus as f64;
            let hits = if tokens < local { tokens } else { local };
            let rows = tokens / hits;
            self.values[HITS][row] = hits;
            self.values[BUSY_HITS][row] = hits;
            self.values[BUSY_TOKENS][row] = tokens;
            for (tile, of) in TILE_ROWS.iter().enumerate() {
                self.values[TILES + tile][row] = hits * (rows / f64::from(*of)).ceil();
            }
        }
    }

    /// Rows whose tokens are whole numbers, and those between two of them.
    fn between(&mut self) {
        for row in 0..ROWS {
            let tokens = tokens_of(row);
            if tokens.fract() > 0.0 {
                let (low, high) = (row_of(tokens.floor()), row_of(tokens.ceil()));
                for values in self.values.iter_mut() {
                    values[row] = values[low] + (values[high] - values[low]) * tokens.fract();
                }
            }
        }
    }

    fn power_law(&mut self, alpha: f64, choice: Choice, placement: Placement, draws: usize) {
        let placed = placement.place(&vec![1.0; choice.experts], choice.gpus);
        for row in (0..ROWS).filter(|row| tokens_of(*row).fract() == 0.0) {
            // The same shares for every number of tokens, so that loads grow smoothly.
            let mut draw = Draw::new(SEED);
            for _ in 0..draws {
                if stopped() {
                    return;
                }
                let counts = draw.power_law(alpha, tokens_of(row) as usize, choice);
                self.count(row, &counts, &placed, 1.0 / draws as f64);
            }
        }
        self.between();
    }

    fn choices(&mut self, law: &Law, choice: Choice, placement: Placement, draws: usize) {
        let mut draw = Draw::new(SEED);
        let mut taken = Vec::with_capacity(choice.active);
        let share = 1.0 / draws as f64;
        let mut placed = placement.place(&vec![1.0; choice.experts], choice.gpus);
        for turn in 0..draws {
            if stopped() {
                return;
            }
            let weights = draw.weights(law, choice, turn);
            let chances = chances(&weights, choice.active);
            if law.lasts() {
                placed = placement.place(&chances, choice.gpus);
            }
            let mut urn = Urn::new(&weights);
            let mut counts = vec![0_u32; choice.experts];
            for tokens in 1..=ONE_BY_ONE {
                if stopped() {
                    return;
                }
                urn.choose(choice.active, &mut draw, &mut taken, &mut counts);
                let row = row_of(f64::from(tokens));
                if tokens_of(row) == f64::from(tokens) {
                    self.count(row, &counts, &placed, share);
                }
            }
            let deviations = draw.deviations(&chances);
            for row in row_of(f64::from(ONE_BY_ONE)) + 1..ROWS {
                let tokens = tokens_of(row);
                let mut rest = 0.0;
                for ((count, chance), deviation) in counts.iter_mut().zip(&chances).zip(&deviations) {
                    // What rounding leaves goes to the next expert, so that no choice is lost.
                    let exact = tokens * chance + tokens.sqrt() * deviation + rest;
                    let rounded = exact.round().clamp(0.0, tokens);
                    rest = exact - rounded;
                    *count = rounded as u32;
                }
                self.count(row, &counts, &placed, share);
            }
        }
        self.between();
        // The tokens of the only GPU are known, and so are the bounds of those of the busiest.
        for row in 0..ROWS {
            let all = tokens_of(row) * choice.active as f64;
            let least = all / choice.gpus as f64;
            let busy = &mut self.values[BUSY_TOKENS][row];
            *busy = if choice.gpus == 1 { all } else { busy.clamp(least, all) };
        }
    }

    /// Adds the loads of GPUs under counts of tokens by expert, with the weight `share` (Eq. 6.2).
    fn count(&mut self, row: usize, counts: &[u32], placed: &Placed, share: f64) {
        let (mut hits, mut busiest) = (0, Busiest::default());
        for copies in &placed.gpus {
            let mut here = Busiest { copies, ..Busiest::default() };
            for (expert, copy, of) in copies {
                let tokens = (counts[*expert as usize] + copy) / of;
                here.tokens += u64::from(tokens);
                here.hits += u32::from(tokens > 0);
            }
            hits += here.hits;
            if here.tokens > busiest.tokens || busiest.copies.is_empty() {
                busiest = here;
            }
        }
        let mut tiles = [0_u64; TILE_ROWS.len()];
        for (expert, copy, of) in busiest.copies {
            let tokens = (counts[*expert as usize] + copy) / of;
            tiles.iter_mut().zip(TILE_ROWS).for_each(|(tiles, rows)| *tiles += u64::from(tokens.div_ceil(rows)));
        }
        self.values[HITS][row] += share * f64::from(hits) / placed.gpus.len() as f64;
        self.values[BUSY_HITS][row] += share * f64::from(busiest.hits);
        self.values[BUSY_TOKENS][row] += share * busiest.tokens as f64;
        for (tile, tiles) in tiles.iter().enumerate() {
            self.values[TILES + tile][row] += share * *tiles as f64;
        }
    }

    #[inline(always)]
    fn at<const L: usize>(&self, quantity: usize, places: &Places<L>) -> Lane<L> {
        let values = &self.values[quantity];
        let mut out = [0.0; L];
        for i in 0..L {
            let row = (places.row[i] as usize).min(ROWS - 1);
            let (here, next) = (values[row], values[(row + 1).min(ROWS - 1)]);
            out[i] = here + (next - here) * places.part[i];
        }
        out
    }

    /// Experts hit on a mean GPU and on the busiest (section 6); beyond the table they stay, below one token they fall with
    /// it.
    #[inline(always)]
    pub fn loads<const L: usize>(&self, places: &Places<L>) -> Loads<L> {
        let mut loads = Loads { hits: self.at(HITS, places), busy_hits: self.at(BUSY_HITS, places) };
        for i in 0..L {
            let fewer = if places.scale[i] < 1.0 { places.scale[i] } else { 1.0 };
            loads.hits[i] *= fewer;
            loads.busy_hits[i] *= fewer;
        }
        loads
    }

    /// Tokens on the busiest GPU.
    #[inline(always)]
    pub fn busy_tokens<const L: usize>(&self, places: &Places<L>) -> Lane<L> {
        self.grown(BUSY_TOKENS, places)
    }

    /// Tiles of so many rows on the busiest GPU, by position in [`TILE_ROWS`].
    #[inline(always)]
    pub fn tiles<const L: usize>(&self, tile: usize, places: &Places<L>) -> Lane<L> {
        self.grown(TILES + tile, places)
    }

    /// A quantity that grows with the tokens beyond the table.
    #[inline(always)]
    fn grown<const L: usize>(&self, quantity: usize, places: &Places<L>) -> Lane<L> {
        let mut loads = self.at(quantity, places);
        for i in 0..L {
            loads[i] *= places.scale[i];
        }
        loads
    }
}

/// The row of a number of tokens, or the last before it.
fn row_of(tokens: f64) -> usize {
    places(&[tokens]).row[0] as usize
}

trait PowerOfTokens {
    /// `self^tokens` for 0 ≤ self < 1, with the same bits on every machine.
    fn powi_exact(self, tokens: f64) -> f64;
}

impl PowerOfTokens for f64 {
    fn powi_exact(self, tokens: f64) -> f64 {
        if self > 0.0 { crate::numeric::exact::power(self, tokens) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(experts: usize, active: usize, gpus: usize) -> Choice {
        Choice { experts, active, gpus }
    }

    fn at(table: &Table, tokens: f64) -> Loads<1> {
        table.loads(&places(&[tokens]))
    }

    fn busy(table: &Table, tokens: f64) -> f64 {
        table.busy_tokens(&places(&[tokens]))[0]
    }

    #[test]
    fn tokens_lie_between_their_row_and_the_next() {
        for tokens in [1.0, 1.25, 3.0, 64.0, 100.0, 16_000.0] {
            let loads = places(&[tokens]);
            let row = loads.row[0] as usize;
            let (low, high) = (tokens_of(row), tokens_of(row + 1));
            assert!(low <= tokens && tokens < high);
            assert!((low + (high - low) * loads.part[0] - tokens).abs() < 1e-9 * tokens);
        }
        assert_eq!(row_of((1_u64 << DOUBLINGS) as f64), ROWS - 1);
    }

    #[test]
    fn a_uniform_law_hits_as_many_as_the_closed_form() {
        let table = Table::new(&Law::Uniform, choice(128, 8, 4), Placement::Contiguous);
        let exact = 32.0 * (1.0 - 0.9375_f64.powi(64));
        assert!((at(&table, 64.0).hits[0] - exact).abs() < 1e-9);
        let drawn = Table::drawn(&Law::Dirichlet(1e6), choice(128, 8, 4), Placement::Contiguous, 128);
        assert!((at(&drawn, 64.0).hits[0] / exact - 1.0).abs() < 0.01);
    }

    /// Expected load of the busiest of two GPUs with two of four experts each, two of which each of two tokens takes.
    #[test]
    fn draws_are_near_what_is_counted_out() {
        // One token takes both of one GPU with 1/3: 2·1/3 + 1·2/3. Two: 3 or 4 on one GPU unless each has 2.
        let table = Table::new(&Law::Uniform, choice(4, 2, 2), Placement::Contiguous);
        assert!((busy(&table, 1.0) / (4.0 / 3.0) - 1.0).abs() < 0.01);
        // Loads on the first GPU of two tokens: 0, 1, 2, 3, 4 with 1, 8, 18, 8, 1 in 36.
        let exact = (2.0 * 4.0 + 16.0 * 3.0 + 18.0 * 2.0) / 36.0;
        assert!((busy(&table, 2.0) / exact - 1.0).abs() < 0.01);
    }

    #[test]
    fn balance_and_copies_lower_the_load_of_the_busiest() {
        let load = |placement| busy(&Table::new(&Law::Zipf(0.8), choice(64, 4, 8), placement), 4096.0);
        let (plain, balanced, copied) =
            (load(Placement::Contiguous), load(Placement::Balanced), load(Placement::Replicated(16)));
        let mean = 4096.0 * 4.0 / 8.0;
        assert!(plain > balanced && balanced > copied && copied >= 0.999 * mean, "{plain} {balanced} {copied} {mean}");
    }

    #[test]
    fn all_tokens_are_somewhere() {
        for law in [Law::Uniform, Law::Dirichlet(0.5), Law::Zipf(1.0), Law::PowerLaw(1.2), Law::Balanced] {
            let table = Table::new(&law, choice(32, 4, 1), Placement::Contiguous);
            for tokens in [1.0, 3.0, 64.0, 4096.0] {
                let loads = at(&table, tokens);
                assert!((busy(&table, tokens) / (4.0 * tokens) - 1.0).abs() < 1e-9, "{law:?} {tokens}");
                assert!(loads.hits[0] <= 32.0 + 1e-9 && loads.hits[0] >= 4.0 - 0.2, "{law:?} {tokens}");
            }
        }
    }
}
