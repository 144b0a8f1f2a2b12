//! Points of one mapping and batch over all lengths: what depends on the prompt alone, on the context alone or on the
//! length alone is evaluated once for each value, and points only put these together.
//!
//! The longer of the two length axes lies along the lanes. Where its values are evenly spaced, sums with the other axis
//! repeat, and their values are kept in an order that makes the lanes of a block neighbours.

use std::ops::Range;

use super::range::{Desk, Stretch, Visitor};
use crate::cost::lanes::{LANES, Lane, ZERO};
use crate::mapping::Mapping;
use crate::serving::{Columns, Parts, Requests, Workspace, decode, fill, fix_decode, held_bytes, prefill};
use crate::simd::{self, Work};
use crate::space::Space;
use crate::step::{PhaseCost, PhaseView};

/// Shortest run of lanes worth it.
const SHORTEST: usize = LANES / 2;

/// Lengths along the lanes taken together, and points.
const MOST_LANES: usize = 1 << 13;
const MOST_POINTS: usize = 1 << 19;

/// A phase's cost at many places.
#[derive(Debug, Default)]
struct PhaseTable {
    elapsed_s: Vec<f64>,
    energy_j: Vec<f64>,
    joules: [Vec<f64>; 7],
}

/// Values of one phase or size wherever they are needed, kept from slab to slab.
#[derive(Debug, Default)]
pub(super) struct Tables {
    prefill: PhaseTable,
    activations: Vec<f64>,
    contexts: Sums,
    decode: PhaseTable,
    lengths: Sums,
    held: Vec<f64>,
}

/// Sums of a row value and a lane value: their different values, and where those of a row begin.
#[derive(Debug, Default)]
struct Sums {
    values: Vec<f64>,
    begins: Vec<u32>,
}

fn divisor(a: f64, b: f64) -> f64 {
    let (mut a, mut b) = (a, b);
    while b > 0.0 {
        (a, b) = (b, a % b);
    }
    a
}

/// An even grid that holds all sums of whole row and lane values.
struct Grid {
    least: f64,
    step: f64,
    grid: f64,
    different: f64,
}

impl Grid {
    /// None if lane values are not evenly spaced, or too few sums repeat.
    fn of(rows: &[f64], lanes: &[f64]) -> Option<Self> {
        let step = lanes.get(1)? - lanes[0];
        let even = step > 0.0 && lanes.windows(2).all(|pair| pair[1] - pair[0] == step);
        let least = rows.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rows.iter().copied().fold(0.0, f64::max);
        let grid = rows.iter().fold(step, |grid, row| divisor(grid, row - least));
        let different = (most - least + step * (lanes.len() - 1) as f64) / grid + 1.0;
        let pays = even && different <= 0.75 * (rows.len() * lanes.len()) as f64;
        pays.then_some(Self { least, step, grid, different })
    }
}

/// Phases that have to be evaluated for a space, as a number of points; putting a point together counts a fiftieth.
pub fn evaluations(space: &Space) -> f64 {
    let size = space.size() as f64;
    if !pays(space) {
        return size;
    }
    let [prompts, outputs] = space.lengths();
    let plane = (prompts.len() * outputs.len()) as f64;
    let doubled: Vec<f64> = prompts.iter().map(|prompt| 2.0 * prompt).collect();
    let outputs = &outputs[usize::from(outputs.first().is_some_and(|v| *v < 2.0) && outputs.len() > 1)..];
    let (rows, lanes) =
        if outputs.len() >= prompts.len() { (doubled.as_slice(), outputs) } else { (outputs, doubled.as_slice()) };
    let contexts = Grid::of(rows, lanes).map_or(plane, |grid| grid.different);
    size / plane * (0.6 * prompts.len() as f64 + 0.4 * contexts) + size / 50.0
}

impl Sums {
    /// Of whole numbers; values are kept lane after lane for each row if few of them repeat.
    fn fill(&mut self, rows: &[f64], lanes: &[f64], scale: f64) {
        let (values, begins) = (&mut self.values, &mut self.begins);
        values.clear();
        begins.clear();
        if let Some(Grid { least, step, grid, different }) = Grid::of(rows, lanes) {
            // Every stride-th value is a neighbour of the next lane: those of one remainder are kept together.
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
fn pad(values: &mut Vec<f64>) {
    let last = values.last().copied().unwrap_or(1.0);
    values.resize(values.len() + LANES, last);
}

#[inline(always)]
fn lanes(values: &[f64], at: usize) -> &Lane {
    const NONE: &Lane = &ZERO;
    values.get(at..at + LANES).and_then(|slice| slice.try_into().ok()).unwrap_or(NONE)
}

impl PhaseTable {
    fn clear(&mut self) {
        self.elapsed_s.clear();
        self.energy_j.clear();
        self.joules.iter_mut().for_each(Vec::clear);
    }

    #[inline(always)]
    fn push(&mut self, cost: &PhaseCost, causes: bool) {
        self.elapsed_s.extend_from_slice(&cost.elapsed_s);
        self.energy_j.extend_from_slice(&cost.energy_j);
        if causes {
            for (all, own) in self.joules.iter_mut().zip(&cost.joules) {
                all.extend_from_slice(own);
            }
        }
    }

    /// The lanes from a place on.
    #[inline(always)]
    fn at(&self, place: usize, causes: bool, joules: &mut [Lane; 7]) -> (&Lane, &Lane) {
        if causes {
            for (own, all) in joules.iter_mut().zip(&self.joules) {
                *own = *lanes(all, place);
            }
        }
        (lanes(&self.elapsed_s, place), lanes(&self.energy_j, place))
    }

    /// One place in all lanes.
    #[inline(always)]
    fn spread(&self, place: usize, causes: bool, cost: &mut PhaseCost) {
        let one = |values: &[f64]| [values.get(place).copied().unwrap_or(0.0); LANES];
        cost.elapsed_s = one(&self.elapsed_s);
        cost.energy_j = one(&self.energy_j);
        if causes {
            for (own, all) in cost.joules.iter_mut().zip(&self.joules) {
                *own = one(all);
            }
        }
    }
}

/// Whether the lengths of a space make runs long enough.
pub(super) fn pays(space: &Space) -> bool {
    space.lengths().iter().any(|axis| axis.len() >= SHORTEST)
}

impl Stretch<'_> {
    /// Points of one batch.
    pub(super) fn factored<V: Visitor>(&self, range: Range<u64>, desk: &mut Desk, visitor: &mut V) {
        let [_, outputs] = self.space.lengths();
        let (row, plane) = (outputs.len() as u64, self.space.plane());
        let first = range.start / plane * plane;
        let slab = Slab { of: *self, first };
        // Whole rows of outputs are factored; what is left of a row at either end is not, unless it is long.
        let mut lo = range.start;
        while lo < range.end {
            let (from, left) = (lo - first, range.end - lo);
            let prompt = (from / row) as usize;
            let output = (from % row) as usize;
            if output > 0 || left < row {
                let hi = range.end.min(first + (from / row + 1) * row);
                let count = (hi - lo) as usize;
                if count >= 4 * SHORTEST {
                    slab.piece(prompt..prompt + 1, output..output + count, desk, visitor);
                } else {
                    self.direct(lo..hi, desk, visitor);
                }
                lo = hi;
            } else {
                let rows = (left / row) as usize;
                slab.piece(prompt..prompt + rows, 0..outputs.len(), desk, visitor);
                lo += rows as u64 * row;
            }
        }
    }
}

/// Points of one mapping and batch, from the first on.
struct Slab<'a> {
    of: Stretch<'a>,
    first: u64,
}

impl Slab<'_> {
    /// A rectangle of prompts and outputs, in parts small enough for the caches.
    fn piece<V: Visitor>(&self, prompts: Range<usize>, outputs: Range<usize>, desk: &mut Desk, visitor: &mut V) {
        let along_outputs = outputs.len() >= prompts.len();
        let mut outputs = outputs;
        // One output token decodes like two: it would make an even axis uneven.
        if along_outputs && outputs.len() > SHORTEST && self.of.space.lengths()[1][outputs.start] < 2.0 {
            self.part(false, outputs.start..outputs.start + 1, prompts.clone(), desk, visitor);
            outputs.start += 1;
        }
        let (rows, lanes) = if along_outputs { (prompts, outputs) } else { (outputs, prompts) };
        let mut lane = lanes.start;
        while lane < lanes.end {
            let lane_stop = lanes.end.min(lane + MOST_LANES);
            let most_rows = (MOST_POINTS / (lane_stop - lane)).max(1);
            let mut row = rows.start;
            while row < rows.end {
                let row_stop = rows.end.min(row + most_rows);
                self.part(along_outputs, row..row_stop, lane..lane_stop, desk, visitor);
                row = row_stop;
            }
            lane = lane_stop;
        }
    }

    fn part<V: Visitor>(
        &self,
        along_outputs: bool,
        rows: Range<usize>,
        columns: Range<usize>,
        desk: &mut Desk,
        visitor: &mut V,
    ) {
        let Stretch { level, mapping, space, columns: wanted, tables: looked_up } = self.of;
        let [prompts, outputs] = space.lengths();
        let batch = [space.batch(self.first); LANES];
        let Desk { workspace, tables } = desk;
        let causes = wanted.has_causes();
        let (row_axis, lane_axis) = if along_outputs { (prompts, outputs) } else { (outputs, prompts) };
        let (row_values, lane_values) = (&row_axis[rows.clone()], &lane_axis[columns.clone()]);
        // Twice the context is a whole number: twice the prompt and the output, of which at least 2.
        let doubled = |values: &[f64], prompts: bool| -> Vec<f64> {
            values.iter().map(|v| if prompts { 2.0 * v } else { v.max(2.0) }).collect()
        };
        let doubled_rows = doubled(row_values, along_outputs);
        let doubled_lanes = doubled(lane_values, !along_outputs);
        tables.contexts.fill(&doubled_rows, &doubled_lanes, 0.5);
        tables.lengths.fill(row_values, lane_values, 1.0);

        let scratch = &mut workspace.scratch;
        let mut prompt_values = if along_outputs { row_values } else { lane_values }.to_vec();
        pad(&mut prompt_values);
        tables.prefill.clear();
        tables.activations.clear();
        for at in (0..prompt_values.len() - LANES).step_by(LANES) {
            let requests = Requests { batch, prompt_tokens: *lanes(&prompt_values, at), output_tokens: ZERO };
            let mut bytes = ZERO;
            prefill(level, mapping, &requests, looked_up, scratch, &mut workspace.prefill, &mut bytes);
            tables.prefill.push(&workspace.prefill, causes);
            tables.activations.extend_from_slice(&bytes);
        }
        fix_decode(level, mapping, &batch, looked_up, scratch);
        tables.decode.clear();
        for at in (0..tables.contexts.values.len() - LANES).step_by(LANES) {
            let t = lanes(&tables.contexts.values, at);
            decode(level, mapping, &batch, t, looked_up, scratch, &mut workspace.decode);
            tables.decode.push(&workspace.decode, causes);
        }
        tables.decode.push(&PhaseCost::NONE, causes);
        tables.held.clear();
        for at in (0..tables.lengths.values.len() - LANES).step_by(LANES) {
            tables.held.extend_from_slice(&held_bytes(mapping, &batch, lanes(&tables.lengths.values, at)));
        }
        tables.held.extend_from_slice(&ZERO);
        let mut padded = lane_values.to_vec();
        pad(&mut padded);
        let row_stride = if along_outputs { outputs.len() as u64 } else { 1 };
        let lane_stride = if along_outputs { 1 } else { outputs.len() as u64 };
        let together = Together {
            mapping,
            wanted,
            along_outputs,
            batch: &batch,
            tables,
            row_values,
            lane_values: &padded,
            first: self.first + rows.start as u64 * row_stride + columns.start as u64 * lane_stride,
            row_stride,
            lane_stride,
            workspace,
            visitor,
        };
        simd::run(level, together);
    }
}

/// Points put together from the tables.
struct Together<'a, V> {
    mapping: &'a Mapping,
    wanted: Columns,
    along_outputs: bool,
    batch: &'a Lane,
    tables: &'a Tables,
    row_values: &'a [f64],
    lane_values: &'a [f64],
    first: u64,
    row_stride: u64,
    lane_stride: u64,
    workspace: &'a mut Workspace,
    visitor: &'a mut V,
}

impl<V: Visitor> Work for Together<'_, V> {
    #[inline(always)]
    fn run(self) {
        let Tables { prefill, activations, contexts, decode, lengths, held } = self.tables;
        let (causes, count) = (self.wanted.has_causes(), self.lane_values.len() - LANES);
        let Workspace { prefill: prompt, decode: step, served, .. } = self.workspace;
        for (i, row) in self.row_values.iter().enumerate() {
            let (mut row_bytes, mut row_outputs) = (ZERO, ZERO);
            if self.along_outputs {
                prefill.spread(i, causes, prompt);
                row_bytes = [activations[i]; LANES];
            } else {
                row_outputs = [*row; LANES];
            }
            let (context, length) = (contexts.begins[i] as usize, lengths.begins[i] as usize);
            for at in (0..count).step_by(LANES) {
                let (elapsed_s, energy_j) = decode.at(context + at, causes, &mut step.joules);
                let decode = PhaseView { elapsed_s, energy_j, joules: &step.joules };
                let (prefill, activations, output_tokens) = if self.along_outputs {
                    (prompt.view(), &row_bytes, lanes(self.lane_values, at))
                } else {
                    let (elapsed_s, energy_j) = prefill.at(at, causes, &mut prompt.joules);
                    (PhaseView { elapsed_s, energy_j, joules: &prompt.joules }, lanes(activations, at), &row_outputs)
                };
                let held = lanes(held, length + at);
                let parts = Parts { batch: self.batch, output_tokens, prefill, decode, held, activations };
                fill(self.mapping, &parts, self.wanted, served);
                let index = self.first + i as u64 * self.row_stride + at as u64 * self.lane_stride;
                self.visitor.block(index, self.lane_stride, LANES.min(count - at), served);
            }
        }
    }
}
