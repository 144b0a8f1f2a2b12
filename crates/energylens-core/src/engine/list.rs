//! Lists of points in any order: windows of rows, each grouped by mapping, each on one thread.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::ops::Range;
use std::sync::Mutex;

use super::threads::on_threads;
use super::{POINTS_WORTH_A_TABLE, Plan, Point};
use crate::batch::serve::{Columns, Requests, Served, Workspace, serve};
use crate::error::Problem;
use crate::lowering::mapping::Mapping;
use crate::numeric::lanes::LANES;
use crate::numeric::simd::Level;
use crate::system::hash::KeyHasher;
use crate::system::memory::filled;
use crate::system::stop::stopped;

/// Rows of a window: what it reads and writes should stay in a core's cache ...
const FEWEST_ROWS: usize = 1 << 14;
/// ... unless there are so many mappings that blocks would be mostly empty.
const MOST_ROWS: usize = 1 << 17;

/// Lanes of a block with few points.
const NARROW: usize = 8;

/// Points that are worth a thread, and how many points the layout of a mapping counts as.
const POINTS_OF_A_THREAD: usize = 4096;
const POINTS_OF_A_MAPPING: usize = 32;

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
    /// The requested ones, ascending, each by row.
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

/// Points of one mapping in a window: rows, and batch, prompt and output tokens of each.
type Group = Vec<(u32, [f64; 3])>;

/// Working memory of a thread, from window to window.
struct Buffers<K> {
    /// Positions of groups by what tells mappings apart.
    places: HashMap<K, usize, BuildHasherDefault<KeyHasher>>,
    groups: Vec<Group>,
    workspace: Workspace,
    narrow: Workspace<NARROW>,
}

impl Plan {
    /// Evaluates a list of points into the requested columns; the result does not depend on `threads`.
    ///
    /// # Errors
    /// If there is not memory for the columns.
    pub fn evaluate<P: Points + ?Sized>(
        &self,
        points: &P,
        requested: Columns,
        threads: usize,
    ) -> Result<Table, Problem> {
        let rows = points.rows();
        let what = format!("results of {rows} points");
        let columns = requested.iter().map(|_| filled(0.0, rows, &what)).collect::<Result<_, _>>()?;
        let mut table = Table { columns, reasons: filled(0, rows, &what)? };
        let columns = table.columns.iter_mut().map(Vec::as_mut_slice).collect();
        self.evaluate_into(points, requested, threads, columns, &mut table.reasons);
        Ok(table)
    }

    /// The same into columns and reasons that are there already, each as long as the list, and zero.
    pub fn evaluate_into<P: Points + ?Sized>(
        &self,
        points: &P,
        requested: Columns,
        threads: usize,
        columns: Vec<&mut [f64]>,
        reasons: &mut [u8],
    ) {
        let rows = points.rows();
        let mappings = {
            let mut seen = std::collections::HashSet::<P::Key, BuildHasherDefault<KeyHasher>>::default();
            seen.extend((0..SAMPLE.min(rows)).map(|i| points.read(i * rows / SAMPLE.min(rows)).0));
            seen.len().max(1)
        };
        let tables = rows / mappings >= POINTS_WORTH_A_TABLE;
        let length = (mappings * 4 * LANES).clamp(FEWEST_ROWS, MOST_ROWS).min(rows.div_ceil(threads.max(1))).max(LANES);
        let mut columns: Vec<_> = columns.into_iter().map(|column| column.chunks_mut(length)).collect();
        let windows = reasons.chunks_mut(length).enumerate().map(|(i, reasons)| Window {
            rows: i * length..i * length + reasons.len(),
            columns: columns.iter_mut().filter_map(Iterator::next).collect(),
            reasons,
        });
        let windows: Mutex<Vec<Window>> = Mutex::new(windows.collect());
        // A thread is started where it saves more than it costs.
        let work = rows + mappings * POINTS_OF_A_MAPPING;
        let threads = threads.min(rows.div_ceil(length)).min(work / POINTS_OF_A_THREAD).max(1);
        on_threads(threads, || {
            let mut buffers = Buffers {
                places: HashMap::default(),
                groups: Vec::new(),
                workspace: Workspace::default(),
                narrow: Workspace::default(),
            };
            while let Some(window) = windows.lock().ok().and_then(|mut left| left.pop()) {
                if stopped() {
                    break;
                }
                self.window(points, window, requested, tables, &mut buffers);
            }
        });
    }

    fn window<P: Points + ?Sized>(
        &self,
        points: &P,
        window: Window,
        requested: Columns,
        tables: bool,
        buffers: &mut Buffers<P::Key>,
    ) {
        let Buffers { places, groups, workspace, narrow } = buffers;
        let Window { rows, mut columns, reasons } = window;
        places.clear();
        for row in rows.clone() {
            let (key, sizes) = points.read(row);
            let next = places.len();
            let group = *places.entry(key).or_insert(next);
            if group == groups.len() {
                groups.push(Group::new());
            }
            groups[group].push(((row - rows.start) as u32, sizes));
        }
        // A mapping is held no longer than it takes to evaluate its points.
        for group in groups.iter_mut().take(places.len()) {
            if stopped() {
                return;
            }
            let Some((first, _)) = group.first() else { continue };
            let mapped = self.mapping_for(&points.point(rows.start + *first as usize), tables);
            match mapped.as_ref() {
                Ok(mapping) => {
                    for rows in group.chunks(LANES) {
                        if stopped() {
                            break;
                        }
                        if rows.len() > LANES / 4 {
                            wide_block(self.level, mapping, rows, requested, tables, workspace);
                            scatter(rows, &workspace.served, requested, &mut columns, reasons);
                            continue;
                        }
                        for rows in rows.chunks(NARROW) {
                            narrow_block(self.level, mapping, rows, requested, tables, narrow);
                            scatter(rows, &narrow.served, requested, &mut columns, reasons);
                        }
                    }
                }
                Err(infeasible) => {
                    group.iter().for_each(|(row, _)| reasons[*row as usize] = infeasible.reason as u8);
                }
            }
            group.clear();
        }
        // Buffers of rows are reused by the next window, but no more than a window needs.
        if groups.iter().map(Group::capacity).sum::<usize>() > 2 * MOST_ROWS {
            groups.clear();
        }
    }
}

/// Writes results to their rows.
fn scatter<const L: usize>(
    rows: &[(u32, [f64; 3])],
    served: &Served<L>,
    requested: Columns,
    columns: &mut [&mut [f64]],
    reasons: &mut [u8],
) {
    for (column, out) in requested.iter().zip(columns) {
        for ((row, _), value) in rows.iter().zip(&served.columns[column]) {
            out[*row as usize] = *value;
        }
    }
    for ((row, _), reason) in rows.iter().zip(served.reasons) {
        reasons[*row as usize] = reason as u8;
    }
}

type Rows<'a> = &'a [(u32, [f64; 3])];

// Neither is generic, so that the hot loops are compiled in this crate alone, whoever hands over the points.
#[inline(never)]
fn wide_block(
    level: Level,
    mapping: &Mapping,
    rows: Rows,
    requested: Columns,
    tables: bool,
    workspace: &mut Workspace,
) {
    block(level, mapping, rows, requested, tables, workspace);
}

#[inline(never)]
fn narrow_block(
    level: Level,
    mapping: &Mapping,
    rows: Rows,
    requested: Columns,
    tables: bool,
    workspace: &mut Workspace<NARROW>,
) {
    block(level, mapping, rows, requested, tables, workspace);
}

/// Evaluates some points of one mapping; lanes past the last repeat it.
fn block<const L: usize>(
    level: Level,
    mapping: &Mapping,
    rows: &[(u32, [f64; 3])],
    requested: Columns,
    tables: bool,
    workspace: &mut Workspace<L>,
) {
    let mut requests = Requests { batch: [0.0; L], prompt_tokens: [0.0; L], output_tokens: [0.0; L] };
    let last = rows.len().saturating_sub(1);
    for i in 0..L {
        let [batch, prompt, output] = rows[i.min(last)].1;
        requests.batch[i] = batch;
        requests.prompt_tokens[i] = prompt;
        requests.output_tokens[i] = output;
    }
    serve(level, mapping, &requests, requested, tables, workspace);
}
