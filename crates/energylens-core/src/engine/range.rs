//! Ranges of a space, cut into runs of points of one mapping, each evaluated by the schedule that suits it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::factored;
use super::run::{Buffers, MappingRun, Visitor};
use super::threads::on_threads;
use super::{POINTS_WORTH_A_TABLE, Plan};
use crate::batch::serve::Columns;
use crate::engine::space::Space;
use crate::system::stop::stopped;

/// Points of a piece of work, some hundredths of a second; pieces begin at its multiples, so that they do not depend on the
/// number of threads.
const CHUNK: u64 = 1 << 18;

/// How points of a product are evaluated; the results are the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Whichever is faster.
    #[default]
    Best,
    /// Each point from scratch.
    Direct,
}

impl Plan {
    /// Walks a range of a space on some threads, each with its visitor, and returns the visitors; if the walk was
    /// stopped, they have seen a part of the points.
    pub fn walk<V: Visitor>(
        &self,
        space: &Space,
        range: Range<u64>,
        columns: Columns,
        schedule: Schedule,
        threads: usize,
        visitor: impl Fn() -> V + Sync,
    ) -> Vec<V> {
        let plane = space.plane();
        let chunk = match plane {
            0..CHUNK => plane * CHUNK.div_ceil(plane),
            _ => CHUNK.max(space.row().min(4 * CHUNK) * (CHUNK / space.row().max(1)).max(1)),
        };
        let next = AtomicU64::new(range.start / chunk);
        let factored = schedule == Schedule::Best && factored::is_cheaper(space);
        let pieces = range.end.div_ceil(chunk).saturating_sub(range.start / chunk);
        // Each thread takes some hundredths of a second of work, or is not worth its start.
        let useful = if factored { pieces.div_ceil(2) } else { pieces };
        let threads = threads.min(usize::try_from(useful).unwrap_or(threads)).max(1);
        on_threads(threads, || {
            let (mut buffers, mut visitor) = (Buffers::default(), visitor());
            loop {
                let lo = next.fetch_add(1, Ordering::Relaxed).saturating_mul(chunk);
                if lo >= range.end || stopped() {
                    return visitor;
                }
                let piece = lo.max(range.start)..lo.saturating_add(chunk).min(range.end);
                self.walk_piece(space, piece, columns, factored, &mut buffers, &mut visitor);
            }
        })
    }

    fn walk_piece<V: Visitor>(
        &self,
        space: &Space,
        range: Range<u64>,
        columns: Columns,
        factored: bool,
        buffers: &mut Buffers,
        visitor: &mut V,
    ) {
        let (run, plane) = (space.run(), space.plane());
        let tables = run >= POINTS_WORTH_A_TABLE as u64;
        let mut at = range.start;
        while at < range.end && !stopped() {
            let stop = range.end.min((at / run + 1).saturating_mul(run));
            match self.mapping_for(&space.point(at), tables).as_ref() {
                Err(infeasible) => visitor.refuse(at, stop - at, infeasible.reason),
                Ok(mapping) => {
                    let points = MappingRun { level: self.level, mapping, space, columns, tables };
                    if !factored {
                        points.direct(at..stop, buffers, visitor);
                    } else {
                        let mut lo = at;
                        while lo < stop && !stopped() {
                            let hi = stop.min((lo / plane + 1).saturating_mul(plane));
                            points.factored(lo..hi, buffers, visitor);
                            lo = hi;
                        }
                    }
                }
            }
            at = stop;
        }
    }
}
