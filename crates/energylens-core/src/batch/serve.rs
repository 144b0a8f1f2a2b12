//! A batch of requests: prefill, decode, and whether it fits.

use crate::batch::memory::Activations;
use crate::batch::phase::{PhaseCost, PhaseView, Scratch, phase_cost};
use crate::cost::program::NONLINEAR_SUMS;
use crate::lowering::mapping::{MappedPhase, Mapping};
use crate::numeric::lanes::{LANES, Lane, ceiling};
use crate::numeric::simd::{self, Level, Work};

pub use crate::batch::columns::{COLUMNS, Columns, WIDTH, column_names};
pub use crate::batch::memory::held_bytes;
pub use crate::batch::passes::{Requests, context, decode_passes, prefill_passes};
pub use crate::batch::results::{LARGEST, Parts, SMALLEST, Served, fill};

/// The phase of a block of points, with what its passes depend on.
enum PhaseInputs<'a, const L: usize> {
    Prefill(&'a Requests<L>),
    Decode { batch: &'a Lane<L>, t: &'a Lane<L> },
}

/// The cost of one phase of a block of points. Both phases share it, so that there is but one copy for each instruction set.
struct PhaseStep<'a, const L: usize> {
    mapping: &'a Mapping,
    inputs: PhaseInputs<'a, L>,
    tables: bool,
    scratch: &'a mut Scratch<L>,
    cost: &'a mut PhaseCost<L>,
}

impl<const L: usize> Work for PhaseStep<'_, L> {
    #[inline(always)]
    fn run(self) {
        let Self { mapping, inputs, tables, scratch, cost } = self;
        let (phase, passes) = match inputs {
            PhaseInputs::Prefill(requests) => (&mapping.prefill, prefill_passes(mapping, requests)),
            PhaseInputs::Decode { batch, t } => (&mapping.decode, decode_passes(mapping, batch, t)),
        };
        scratch.fullest = passes.fullest;
        phase_cost(mapping, phase, &passes, tables, scratch, cost);
    }
}

/// Prefill of a block of points: its cost, and the bytes of activations with those that are reserved.
pub fn prefill<const L: usize>(
    level: Level,
    mapping: &Mapping,
    requests: &Requests<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
    cost: &mut PhaseCost<L>,
    bytes: &mut Lane<L>,
) {
    simd::run(
        level,
        PhaseStep { mapping, inputs: PhaseInputs::Prefill(requests), tables, scratch: &mut *scratch, cost },
    );
    let prompt_tokens = &requests.prompt_tokens;
    simd::run(level, Activations { mapping, fullest: &scratch.fullest, prompt_tokens, bytes });
}

/// Context-free seconds of decode, evaluated.
struct ContextFree<'a, const L: usize> {
    mapping: &'a Mapping,
    batch: &'a Lane<L>,
    scratch: &'a mut Scratch<L>,
}

impl<const L: usize> Work for ContextFree<'_, L> {
    #[inline(always)]
    fn run(self) {
        let passes = decode_passes(self.mapping, self.batch, &[0.0; L]);
        self.scratch.evaluate_context_free(self.mapping, &self.mapping.decode, &passes, false);
    }
}

/// Puts the seconds of decode that do not depend on the context into `scratch`; with `tables` they are looked up by
/// sequences of a data-parallel rank, with the same bits.
pub fn fix_decode<const L: usize>(
    level: Level,
    mapping: &Mapping,
    batch: &Lane<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
) {
    let dp = f64::from(mapping.mesh.dp);
    let mut sequences = [0.0; L];
    for i in 0..L {
        sequences[i] = ceiling(batch[i] / dp);
    }
    if !tables || sequences.iter().any(|sequences| *sequences > MappedPhase::TABLE_SEQUENCES as f64) {
        return simd::run(level, ContextFree { mapping, batch, scratch });
    }
    let (kinds, used) = (mapping.kinds.len(), mapping.decode.program.nonlinear_sums());
    let table = mapping.decode.fixed.get_or_init(|| {
        let mut table = vec![0.0; mapping.decode.table_values(kinds)];
        for first in (0..=MappedPhase::TABLE_SEQUENCES).step_by(L) {
            let batch: Lane<L> = std::array::from_fn(|i| dp * (first + i).max(1) as f64);
            simd::run(level, ContextFree { mapping, batch: &batch, scratch: &mut *scratch });
            for (row, lane) in table
                .chunks_mut(MappedPhase::TABLE_ROW)
                .zip(scratch.context_free.iter().flat_map(|sums| sums.iter().take(used)))
            {
                row[first..first + L].copy_from_slice(lane);
            }
        }
        table
    });
    scratch.context_free.resize(kinds, [[0.0; L]; NONLINEAR_SUMS]);
    let lanes = scratch.context_free.iter_mut().flat_map(|sums| sums.iter_mut().take(used));
    for (row, lane) in table.chunks(MappedPhase::TABLE_ROW).zip(lanes) {
        for i in 0..L {
            lane[i] = row[(sequences[i] as usize).min(MappedPhase::TABLE_ROW - 1)];
        }
    }
}

/// A decode step of a block of points at contexts of `t` tokens, its context-free seconds in `scratch`.
pub fn decode<const L: usize>(
    level: Level,
    mapping: &Mapping,
    batch: &Lane<L>,
    t: &Lane<L>,
    tables: bool,
    scratch: &mut Scratch<L>,
    cost: &mut PhaseCost<L>,
) {
    simd::run(level, PhaseStep { mapping, inputs: PhaseInputs::Decode { batch, t }, tables, scratch, cost });
}

/// Working memory of one thread.
#[derive(Clone, Debug)]
pub struct Workspace<const L: usize = LANES> {
    /// Working memory of a phase.
    pub scratch: Scratch<L>,
    /// Prefill of the latest block.
    pub prefill: PhaseCost<L>,
    /// Decode of the latest block.
    pub decode: PhaseCost<L>,
    /// Results of the latest block.
    pub served: Served<L>,
}

impl<const L: usize> Default for Workspace<L> {
    fn default() -> Self {
        Self {
            scratch: Scratch::default(),
            prefill: PhaseCost::NONE,
            decode: PhaseCost::NONE,
            served: Served { columns: [[0.0; L]; WIDTH], reasons: [0; L] },
        }
    }
}

/// The last step of a block: memory, and results put together.
struct Finish<'a, const L: usize> {
    mapping: &'a Mapping,
    requests: &'a Requests<L>,
    activations: &'a Lane<L>,
    columns: Columns,
    prefill: PhaseView<'a, L>,
    decode: PhaseView<'a, L>,
    served: &'a mut Served<L>,
}

impl<const L: usize> Work for Finish<'_, L> {
    #[inline(always)]
    fn run(self) {
        let Requests { batch, prompt_tokens, output_tokens } = self.requests;
        let mut length = [0.0; L];
        for i in 0..L {
            length[i] = prompt_tokens[i] + output_tokens[i];
        }
        let parts = Parts {
            batch,
            prompt_tokens,
            output_tokens,
            prefill: self.prefill,
            decode: self.decode,
            held: &held_bytes(self.mapping, batch, &length),
            activations: self.activations,
        };
        fill(self.mapping, &parts, self.columns, self.served);
    }
}

/// Evaluates a block of points of one mapping from scratch; `tables` lets matrix products be looked up, with the same bits.
pub fn serve<const L: usize>(
    level: Level,
    mapping: &Mapping,
    requests: &Requests<L>,
    columns: Columns,
    tables: bool,
    workspace: &mut Workspace<L>,
) {
    let Workspace { scratch, prefill: prompt, decode: step, served } = workspace;
    let mut activations = [0.0; L];
    prefill(level, mapping, requests, tables, scratch, prompt, &mut activations);
    fix_decode(level, mapping, &requests.batch, tables, scratch);
    decode(level, mapping, &requests.batch, &context(requests), tables, scratch, step);
    let (prefill, decode) = (prompt.view(), step.view());
    simd::run(level, Finish { mapping, requests, activations: &activations, columns, prefill, decode, served });
}
