//! A run of consecutive points of one mapping, evaluated one by one, and who takes their results.

use std::ops::Range;

use super::bounds::Bounds;
use super::tables::Tables;
use crate::batch::serve::{Columns, Served, Workspace, serve};
use crate::engine::space::Space;
use crate::lowering::mapping::Mapping;
use crate::lowering::mesh::Reason;
use crate::numeric::lanes::LANES;
use crate::numeric::simd::{self, Level, Work};
use crate::system::stop::stopped;

/// Takes the results of a walk, in any order.
pub trait Visitor: Send {
    /// Points `first..first + count` cannot run for one reason.
    fn refuse(&mut self, first: u64, count: u64, reason: Reason);

    /// Results of `count` points `first, first + stride, ...`, in the first lanes.
    fn block(&mut self, first: u64, stride: u64, count: usize, served: &Served);

    /// Whether it may do without some points' results, given bounds of them.
    fn prunes(&self) -> bool {
        false
    }

    /// Takes `count` points for settled, and counts them, if their bounds alone decide about all of them.
    fn settle(&mut self, _count: u64, _bounds: &Bounds) -> bool {
        false
    }
}

/// Working memory of a thread, reused from run to run.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) workspace: Workspace,
    pub(super) tables: Tables,
}

/// Consecutive points of one mapping: they differ in batch and lengths only.
#[derive(Clone, Copy)]
pub(super) struct MappingRun<'a> {
    pub(super) level: Level,
    pub(super) mapping: &'a Mapping,
    pub(super) space: &'a Space,
    pub(super) columns: Columns,
    pub(super) tables: bool,
}

impl MappingRun<'_> {
    /// Evaluates each point from scratch.
    pub(super) fn direct<V: Visitor>(&self, range: Range<u64>, buffers: &mut Buffers, visitor: &mut V) {
        let Self { level, mapping, space, columns, tables } = *self;
        let mut lo = range.start;
        while lo < range.end && !stopped() {
            let count = (range.end - lo).min(LANES as u64) as usize;
            serve(level, mapping, &space.requests(lo, count), columns, tables, &mut buffers.workspace);
            let served = &buffers.workspace.served;
            simd::run(level, Show { first: lo, count, served, visitor: &mut *visitor });
            lo += count as u64;
        }
    }
}

/// Shows a block of consecutive points to a visitor.
struct Show<'a, V> {
    first: u64,
    count: usize,
    served: &'a Served,
    visitor: &'a mut V,
}

impl<V: Visitor> Work for Show<'_, V> {
    #[inline(always)]
    fn run(self) {
        self.visitor.block(self.first, 1, self.count, self.served);
    }
}
