//! The factored schedule: points of one mapping and batch over all prompt and output lengths.
//!
//! A prefill depends on the prompt alone, a decode step on the mean context alone and the held cache on the total length
//! alone. Each is evaluated once for each of its different values; a point only combines three values from tables.
//!
//! The longer of the two length axes lies along the lanes. Where its values are evenly spaced, sums with the other axis
//! repeat, and they are stored in an order that makes the lanes of a block neighbours.

use std::ops::Range;

use super::bounds::{Bounds, Span, Spans};
use super::run::{Buffers, MappingRun, Visitor};
use super::sums::{Grid, pad};
use super::tables::{Tables, lanes};
use crate::batch::phase::{PhaseCost, PhaseView};
use crate::batch::serve::{Columns, Parts, Requests, Workspace, decode, fill, fix_decode, held_bytes, prefill};
use crate::engine::space::Space;
use crate::lowering::mapping::Mapping;
use crate::numeric::lanes::{LANES, Lane, ZERO};
use crate::numeric::simd::{self, Work};
use crate::system::stop::stopped;

/// Fewest lengths that are worth a block of lanes: half of one.
const SHORTEST: usize = LANES / 2;

/// Shortest part of a row that is worth tables; a shorter one is evaluated point by point.
const SHORTEST_ROW: usize = 4 * SHORTEST;

/// Most lengths along the lanes, and most points, that share tables, so that these stay in the processor's caches.
const MOST_LANES: usize = 1 << 13;
const MOST_POINTS: usize = 1 << 19;

/// Shares of the two phases in the work of a point evaluated from scratch, and how many points are combined from tables in
/// the time of one evaluated from scratch. Rough on purpose: they only choose between two schedules of equal results and
/// estimate the work of a search.
const PREFILL_WORK: f64 = 0.6;
const DECODE_WORK: f64 = 0.4;
const COMBINED_PER_EVALUATION: f64 = 50.0;

/// Work of all points of a space, as a number of points evaluated from scratch.
pub fn evaluations(space: &Space) -> f64 {
    let (size, plane) = (space.size() as f64, space.plane() as f64);
    size / plane * plane.min(plane_work(space))
}

/// Whether a space is less work by this schedule than point by point.
pub(super) fn is_cheaper(space: &Space) -> bool {
    plane_work(space) < space.plane() as f64
}

/// Work of the points of one batch, in points evaluated from scratch: a prefill for each prompt and a decode step for each
/// different context, both in whole blocks, and combining them for each point.
fn plane_work(space: &Space) -> f64 {
    let [prompts, outputs] = space.lengths();
    let doubled: Vec<f64> = prompts.iter().map(|prompt| 2.0 * prompt).collect();
    // One output token is a part by itself, with its own prefill (see `Plane::rectangle`).
    let apart = outputs.len() > SHORTEST && outputs.len() >= prompts.len() && outputs[0] < 2.0;
    let rest = &outputs[usize::from(apart)..];
    let (rows, lanes) =
        if rest.len() >= prompts.len() { (doubled.as_slice(), rest) } else { (rest, doubled.as_slice()) };
    let contexts = Grid::of(rows, lanes).map_or((rows.len() * lanes.len()) as f64, |grid| grid.different);
    let blocks = |values: f64| (values / LANES as f64).ceil() * LANES as f64;
    let prefills = blocks(prompts.len() as f64);
    let combining = rows.len() as f64 * blocks(lanes.len() as f64) / COMBINED_PER_EVALUATION;
    PREFILL_WORK * prefills + DECODE_WORK * blocks(contexts) + combining + if apart { prefills } else { 0.0 }
}

impl MappingRun<'_> {
    /// Evaluates points of one batch.
    pub(super) fn factored<V: Visitor>(&self, range: Range<u64>, buffers: &mut Buffers, visitor: &mut V) {
        let [_, outputs] = self.space.lengths();
        let (row, plane) = (outputs.len() as u64, self.space.plane());
        let first = range.start / plane * plane;
        let points = Plane { run: *self, first };
        // Whole rows of outputs are factored; what is left of a row at either end is not, unless it is long.
        let mut lo = range.start;
        while lo < range.end && !stopped() {
            let (from, left) = (lo - first, range.end - lo);
            let prompt = (from / row) as usize;
            let output = (from % row) as usize;
            if output > 0 || left < row {
                let hi = range.end.min(first.saturating_add((from / row + 1).saturating_mul(row)));
                let count = (hi - lo) as usize;
                if count >= SHORTEST_ROW {
                    points.rectangle(prompt..prompt + 1, output..output + count, buffers, visitor);
                } else {
                    self.direct(lo..hi, buffers, visitor);
                }
                lo = hi;
            } else {
                let rows = (left / row) as usize;
                points.rectangle(prompt..prompt + rows, 0..outputs.len(), buffers, visitor);
                lo += rows as u64 * row;
            }
        }
    }
}

/// Points of one mapping and batch; `first` is the index of the first of them in the space.
struct Plane<'a> {
    run: MappingRun<'a>,
    first: u64,
}

impl Plane<'_> {
    /// Evaluates a rectangle of prompts and outputs, in parts small enough for the processor's caches.
    fn rectangle<V: Visitor>(
        &self,
        prompts: Range<usize>,
        outputs: Range<usize>,
        buffers: &mut Buffers,
        visitor: &mut V,
    ) {
        let along_outputs = outputs.len() >= prompts.len();
        let mut outputs = outputs;
        // A batch of one output token decodes nothing, and is given the context of two: among evenly spaced values it would be
        // the one that is not.
        if along_outputs && outputs.len() > SHORTEST && self.run.space.lengths()[1][outputs.start] < 2.0 {
            self.part(false, outputs.start..outputs.start + 1, prompts.clone(), buffers, visitor);
            outputs.start += 1;
        }
        let (rows, lanes) = if along_outputs { (prompts, outputs) } else { (outputs, prompts) };
        let mut lane = lanes.start;
        while lane < lanes.end {
            let lane_stop = lanes.end.min(lane + MOST_LANES);
            let most_rows = (MOST_POINTS / (lane_stop - lane)).max(1);
            let mut row = rows.start;
            while row < rows.end && !stopped() {
                let row_stop = rows.end.min(row + most_rows);
                self.part(along_outputs, row..row_stop, lane..lane_stop, buffers, visitor);
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
        buffers: &mut Buffers,
        visitor: &mut V,
    ) {
        let MappingRun { level, mapping, space, columns: requested, tables: looked_up } = self.run;
        let [prompts, outputs] = space.lengths();
        let batch = [space.batch(self.first); LANES];
        let Buffers { workspace, tables } = buffers;
        let causes = requested.has_causes();
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
        tables.decode.fill_spans();
        tables.prefill.fill_spans();
        tables.decode.push(&PhaseCost::NONE, causes);
        tables.held.clear();
        for at in (0..tables.lengths.values.len() - LANES).step_by(LANES) {
            tables.held.extend_from_slice(&held_bytes(mapping, &batch, lanes(&tables.lengths.values, at)));
        }
        tables.held_spans.fill(&tables.held);
        tables.held.extend_from_slice(&ZERO);
        let mut padded = lane_values.to_vec();
        pad(&mut padded);
        let row_stride = if along_outputs { outputs.len() as u64 } else { 1 };
        let lane_stride = if along_outputs { 1 } else { outputs.len() as u64 };
        let combine = Combine {
            mapping,
            requested,
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
        simd::run(level, combine);
    }
}

/// Combines points from the tables.
struct Combine<'a, V> {
    mapping: &'a Mapping,
    requested: Columns,
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

impl<V: Visitor> Combine<'_, V> {
    /// Whether the visitor can do without the points of a row and some lanes, from their bounds alone.
    #[inline(always)]
    fn settled(&mut self, row: usize, columns: Range<usize>) -> bool {
        // Whether a stage draws more than its cap shows only point by point.
        if !self.visitor.prunes() || self.mapping.most_w.is_some() {
            return false;
        }
        let tables = self.tables;
        let shifted = |begin: u32| begin as usize + columns.start..begin as usize + columns.end;
        let (context, length) = (shifted(tables.contexts.begins[row]), shifted(tables.lengths.begins[row]));
        let held = tables.held_spans.over(length);
        let (lanes, output_tokens, prompts) = (&self.lane_values[columns.clone()], self.row_values[row], row..row + 1);
        let (output_tokens, prompts) =
            if self.along_outputs { (Span::of(lanes), prompts) } else { (Span::exact(output_tokens), columns.clone()) };
        let prefill = |values: &[f64], spans: &Spans| {
            if self.along_outputs { Span::exact(values[row]) } else { spans.over(prompts.clone()) }
        };
        let activations = Span::of(&tables.activations[prompts.clone()]);
        let bounds = Bounds {
            batch: self.batch[0],
            gpus: f64::from(self.mapping.mesh.gpus()),
            output_tokens,
            ttft_s: prefill(&tables.prefill.elapsed_s, &tables.prefill.elapsed_spans),
            tpot_s: tables.decode.elapsed_spans.over(context.clone()),
            prefill_j: prefill(&tables.prefill.energy_j, &tables.prefill.energy_spans),
            step_j: tables.decode.energy_spans.over(context),
            memory_bytes: Span { low: held.low + activations.low, high: held.high + activations.high },
            capacity_bytes: self.mapping.constants.capacity_bytes,
        };
        self.batch[0] >= f64::from(self.mapping.mesh.dp) && self.visitor.settle(columns.len() as u64, &bounds)
    }
}

impl<V: Visitor> Work for Combine<'_, V> {
    #[inline(always)]
    fn run(mut self) {
        let Tables { prefill, activations, contexts, decode, lengths, held, .. } = self.tables;
        let (causes, count) = (self.requested.has_causes(), self.lane_values.len() - LANES);
        for (i, row) in self.row_values.iter().enumerate() {
            if self.settled(i, 0..count) {
                continue;
            }
            let Workspace { prefill: prompt, .. } = &mut *self.workspace;
            let (mut row_bytes, row_lengths) = (ZERO, [*row; LANES]);
            if self.along_outputs {
                prefill.spread(i, causes, prompt);
                row_bytes = [activations[i]; LANES];
            }
            let (context, length) = (contexts.begins[i] as usize, lengths.begins[i] as usize);
            for at in (0..count).step_by(LANES) {
                if count > LANES && self.settled(i, at..count.min(at + LANES)) {
                    continue;
                }
                let Workspace { prefill: prompt, decode: step, served, .. } = &mut *self.workspace;
                let (elapsed_s, energy_j) = decode.at(context + at, causes, &mut step.joules);
                let decode = PhaseView { elapsed_s, energy_j, joules: &step.joules };
                let lane_lengths = lanes(self.lane_values, at);
                let (prefill, activations, prompt_tokens, output_tokens) = if self.along_outputs {
                    (prompt.view(), &row_bytes, &row_lengths, lane_lengths)
                } else {
                    let (elapsed_s, energy_j) = prefill.at(at, causes, &mut prompt.joules);
                    let view = PhaseView { elapsed_s, energy_j, joules: &prompt.joules };
                    (view, lanes(activations, at), lane_lengths, &row_lengths)
                };
                let held = lanes(held, length + at);
                let batch = self.batch;
                let parts = Parts { batch, prompt_tokens, output_tokens, prefill, decode, held, activations };
                fill(self.mapping, &parts, self.requested, served);
                let index = self.first + i as u64 * self.row_stride + at as u64 * self.lane_stride;
                self.visitor.block(index, self.lane_stride, LANES.min(count - at), served);
            }
        }
    }
}
