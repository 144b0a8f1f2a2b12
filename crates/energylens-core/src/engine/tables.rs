//! Tables of the factored schedule: costs of the phases and sizes, each at its different values.

use super::bounds::Spans;
use super::sums::Sums;
use crate::batch::phase::PhaseCost;
use crate::numeric::lanes::{LANES, Lane, ZERO};

/// A phase's cost at many places.
#[derive(Debug, Default)]
pub(super) struct PhaseTable {
    pub(super) elapsed_s: Vec<f64>,
    pub(super) energy_j: Vec<f64>,
    pub(super) joules: [Vec<f64>; 7],
    pub(super) elapsed_spans: Spans,
    pub(super) energy_spans: Spans,
}

/// Tables of the phases and sizes, reused from plane to plane.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) prefill: PhaseTable,
    pub(super) activations: Vec<f64>,
    pub(super) contexts: Sums,
    pub(super) decode: PhaseTable,
    pub(super) lengths: Sums,
    pub(super) held: Vec<f64>,
    pub(super) held_spans: Spans,
}

#[inline(always)]
pub(super) fn lanes(values: &[f64], at: usize) -> &Lane {
    const NONE: &Lane = &ZERO;
    values.get(at..at + LANES).and_then(|slice| slice.try_into().ok()).unwrap_or(NONE)
}

impl PhaseTable {
    pub(super) fn clear(&mut self) {
        self.elapsed_s.clear();
        self.energy_j.clear();
        self.joules.iter_mut().for_each(Vec::clear);
    }

    #[inline(always)]
    pub(super) fn push(&mut self, cost: &PhaseCost, causes: bool) {
        self.elapsed_s.extend_from_slice(&cost.elapsed_s);
        self.energy_j.extend_from_slice(&cost.energy_j);
        if causes {
            for (column, lane) in self.joules.iter_mut().zip(&cost.joules) {
                column.extend_from_slice(lane);
            }
        }
    }

    pub(super) fn fill_spans(&mut self) {
        self.elapsed_spans.fill(&self.elapsed_s);
        self.energy_spans.fill(&self.energy_j);
    }

    /// The lanes from a place on.
    #[inline(always)]
    pub(super) fn at(&self, place: usize, causes: bool, joules: &mut [Lane; 7]) -> (&Lane, &Lane) {
        if causes {
            for (lane, column) in joules.iter_mut().zip(&self.joules) {
                *lane = *lanes(column, place);
            }
        }
        (lanes(&self.elapsed_s, place), lanes(&self.energy_j, place))
    }

    /// One place in all lanes.
    #[inline(always)]
    pub(super) fn spread(&self, place: usize, causes: bool, cost: &mut PhaseCost) {
        let repeated = |values: &[f64]| [values.get(place).copied().unwrap_or(0.0); LANES];
        cost.elapsed_s = repeated(&self.elapsed_s);
        cost.energy_j = repeated(&self.energy_j);
        if causes {
            for (lane, column) in cost.joules.iter_mut().zip(&self.joules) {
                *lane = repeated(column);
            }
        }
    }
}
