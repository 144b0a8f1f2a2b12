//! Lists of points in any order: windows of rows, each grouped by mapping, each on one thread.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::ops::Range;
use std::sync::Mutex;

use super::{KeyHasher, Mapped, POINTS_WORTH_A_TABLE, Plan, Point};
use crate::cost::lanes::{LANES, ZERO};
use crate::mapping::Mapping;
use crate::serving::{Columns, Requests, Workspace, serve};
use crate::simd::{self, Work};

/// Rows of a window: what it reads and writes should stay in a core's cache ...
const FEWEST_ROWS: usize = 1 << 14;
/// ... unless there are so many mappings that blocks would be mostly empty.
const MOST_ROWS: usize = 1 << 17;

/// Rows looked at to guess the number of mappings.
const SAMPLE: usize = 4096;

/// A list of points.
pub trait Points: Sync {
    /// What tells mappings apart.
    type Key: Copy + Eq + Hash + Send;

    /// Number of points.
    fn rows(&self) -> usize;

    /// Key of a row's mapping; batch, prompt and output tokens.
    fn read(&self, row: usize) -> (Self::Key, [f64; 3]);

    /// A row.
    fn point(&self, row: usize) -> Point;
}

impl Points for [Point] {
    type Key = super::Key;

    fn rows(&self) -> usize {
        self.len()
    }

    fn read(&self, row: usize) -> (Self::Key, [f64; 3]) {
        let point = &self[row];
        (point.key(), [point.batch, point.prompt_tokens, point.output_tokens])
    }

    fn point(&self, row: usize) -> Point {
        self[row]
    }
}

/// Result columns of a list of points; rows that cannot be laid out are zero.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Those asked for, ascending, each by row.
    pub columns: Vec<Vec<f64>>,
    /// By row.
    pub reasons: Vec<u8>,
}

/// Rows of one thread at a time, and where their results go.
struct Window<'a> {
    rows: Range<usize>,
    columns: Vec<&'a mut [f64]>,
    reasons: &'a mut [u8],
}

/// Points of one mapping in a window.
struct Group {
    mapping: Mapped,
    rows: Vec<(u32, [f64; 3])>,
}

/// What a thread keeps from window to window.
struct Desk<K> {
    groups: HashMap<K, usize, BuildHasherDefault<KeyHasher>>,
    known: Vec<Group>,
    workspace: Workspace,
}

impl Plan {
    /// Evaluates a list of points into the columns asked for; the result does not depend on `threads`.
    pub fn evaluate<P: Points + ?Sized>(&self, points: &P, wanted: Columns, threads: usize) -> Table {
        let rows = points.rows();
        let mappings = {
            let mut seen = std::collections::HashSet::<P::Key, BuildHasherDefault<KeyHasher>>::default();
            seen.extend((0..SAMPLE.min(rows)).map(|i| points.read(i * rows / SAMPLE.min(rows)).0));
            seen.len().max(1)
        };
        let tables = rows / mappings >= POINTS_WORTH_A_TABLE;
        let length = (mappings * 4 * LANES).clamp(FEWEST_ROWS, MOST_ROWS).min(rows.div_ceil(threads.max(1))).max(LANES);
        let width = wanted.iter().count();
        let mut table = Table { columns: vec![vec![0.0; rows]; width], reasons: vec![0; rows] };
        let mut columns: Vec<_> = table.columns.iter_mut().map(|column| column.chunks_mut(length)).collect();
        let windows = table.reasons.chunks_mut(length).enumerate().map(|(i, reasons)| Window {
            rows: i * length..i * length + reasons.len(),
            columns: columns.iter_mut().filter_map(Iterator::next).collect(),
            reasons,
        });
        let windows: Mutex<Vec<Window>> = Mutex::new(windows.collect());
        self.on_threads(if rows <= length { 1 } else { threads }, || {
            let mut desk =
                Desk { groups: HashMap::default(), known: Vec::new(), workspace: Workspace::default() };
            while let Some(window) = windows.lock().ok().and_then(|mut left| left.pop()) {
                self.window(points, window, wanted, tables, &mut desk);
            }
        });
        drop(windows);
        table
    }

    fn window<P: Points + ?Sized>(
        &self,
        points: &P,
        window: Window,
        wanted: Columns,
        tables: bool,
        desk: &mut Desk<P::Key>,
    ) {
        let Desk { groups, known, workspace } = desk;
        let Window { rows, mut columns, reasons } = window;
        for row in rows.clone() {
            let (key, sizes) = points.read(row);
            let group = *groups.entry(key).or_insert_with(|| {
                known.push(Group { mapping: self.mapping(&points.point(row)), rows: Vec::new() });
                known.len() - 1
            });
            known[group].rows.push(((row - rows.start) as u32, sizes));
        }
        for group in known {
            match group.mapping.as_ref() {
                Ok(mapping) => {
                    for rows in group.rows.chunks(LANES) {
                        simd::run(self.level, Block { mapping, rows, wanted, tables, workspace });
                        let served = &workspace.served;
                        for (column, out) in wanted.iter().zip(&mut columns) {
                            for ((row, _), value) in rows.iter().zip(&served.columns[column]) {
                                out[*row as usize] = *value;
                            }
                        }
                        for ((row, _), reason) in rows.iter().zip(served.reasons) {
                            reasons[*row as usize] = reason as u8;
                        }
                    }
                }
                Err(infeasible) => {
                    group.rows.iter().for_each(|(row, _)| reasons[*row as usize] = infeasible.reason as u8);
                }
            }
            group.rows.clear();
        }
    }
}

/// Up to 64 points of one mapping; lanes past the last repeat it.
struct Block<'a> {
    mapping: &'a Mapping,
    rows: &'a [(u32, [f64; 3])],
    wanted: Columns,
    tables: bool,
    workspace: &'a mut Workspace,
}

impl Work for Block<'_> {
    #[inline(always)]
    fn run(self) {
        let mut requests = Requests { batch: ZERO, prompt_tokens: ZERO, output_tokens: ZERO };
        let last = self.rows.len().saturating_sub(1);
        for i in 0..LANES {
            let [batch, prompt, output] = self.rows[i.min(last)].1;
            requests.batch[i] = batch;
            requests.prompt_tokens[i] = prompt;
            requests.output_tokens[i] = output;
        }
        serve(self.mapping, &requests, self.wanted, self.tables, self.workspace);
    }
}
