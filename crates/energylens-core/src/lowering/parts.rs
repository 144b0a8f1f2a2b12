//! What a mapping is made of: kernels by block, stages of the pipeline, cache and constants of a step.

use std::sync::OnceLock;

use crate::cost::collective::Collective;
use crate::cost::kernel::KernelCost;
use crate::cost::program::Program;
use crate::hardware::dtype::Dtype;
use crate::hardware::link::Contention;
use crate::hardware::uncertainty::Range;
use crate::input::plan::MaskSpec;
use crate::numeric::lanes::LANES;
use crate::routing::Law;

/// Number formats that a point sets in place of the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Formats {
    /// Format of weights whose tensors the model's spec does not name.
    pub weights: Option<Dtype>,
    /// Format of the KV cache.
    pub cache: Option<Dtype>,
}

/// Settings of a plan that a layout depends on.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Most prompt tokens in one prefill pass of one data-parallel rank.
    pub max_batched_tokens: f64,
    /// Routing laws of the plan; a point refers to one by its position, from 1 on.
    pub routings: &'a [Law],
}

/// A kernel of the graph with its costs on this mapping.
#[derive(Clone, Debug)]
pub struct MappedKernel {
    /// Positions of its block in the graph and of the kernel in the block.
    pub place: (usize, usize),
    /// Seconds and joules as functions of batch and lengths.
    pub cost: KernelCost,
}

/// Kernels of one repetition of each block, in the order they run.
pub type Blocks = Vec<Vec<MappedKernel>>;

/// One phase of a mapping.
#[derive(Clone, Debug)]
pub struct MappedPhase {
    /// Costs of its kernels, summed by kind of pipeline stage.
    pub program: Program,
    /// Sends activations to the next pipeline stage; none without pipeline parallelism.
    pub send: Option<Collective>,
    /// Whether the send of one pass runs at the same time as the next pass.
    pub send_overlaps: bool,
    /// Slow-down of kernels and collectives that run at once.
    pub contention: Contention,
    /// Different masks of its attention kernels; kernels refer to them by position.
    pub masks: Vec<MaskSpec>,
    /// Different numbers of slices that overlapped kernels cut a batch into; kernels refer to them by position.
    pub divisions: Vec<f64>,
    /// Seconds of decode that do not depend on the context, by kind of stage, quantity and sequences of a data-parallel
    /// rank ([`Self::TABLE_ROW`] values each); filled at first use, because only long runs of points repay it.
    pub fixed: OnceLock<Vec<f64>>,
}

impl MappedPhase {
    /// Sequences of a data-parallel rank up to which [`Self::fixed`] has values.
    pub const TABLE_SEQUENCES: usize = 1024;
    /// Values of a row of [`Self::fixed`]: 0 sequences to [`Self::TABLE_SEQUENCES`], rounded up to whole lanes.
    pub const TABLE_ROW: usize = Self::TABLE_SEQUENCES + LANES;

    /// Number of values of [`Self::fixed`] with so many kinds of pipeline stage.
    pub fn table_values(&self, kinds: usize) -> usize {
        self.program.nonlinear_sums() * kinds * Self::TABLE_ROW
    }
}

/// Pipeline stages that hold the same layers and so take the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct StageKind {
    /// Number of such stages.
    pub stages: f64,
    /// Repetitions of each block of the graph in one of them.
    pub counts: Vec<f64>,
}

/// Cache of one repetition of a block on one GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheShape {
    /// Bytes of one token of one sequence.
    pub bytes_per_token: f64,
    /// Newest tokens of a sequence that are retained; infinite without a sliding window.
    pub window: f64,
}

/// Constants of a step; powers and joules are of one GPU.
#[derive(Clone, Copy, Debug)]
pub struct StepConstants {
    /// Seconds of one pass through one stage in which the GPU waits for the host.
    pub host_s: f64,
    /// Seconds of one pass through one stage for each sequence: sampling and bookkeeping.
    pub sequence_s: f64,
    /// Watts of a loaded GPU that waits.
    pub static_w: f64,
    /// Watts besides while a kernel runs.
    pub active_w: f64,
    /// Watts besides during exposed communication.
    pub communication_w: f64,
    /// Joules of one pass through one stage for each sequence.
    pub sequence_j: f64,
    /// Power limit of the board.
    pub tdp_w: f64,
    /// Bytes of device memory.
    pub capacity_bytes: f64,
    /// Bytes of device memory that are not for the model.
    pub reserve_bytes: f64,
    /// Most prompt tokens in one prefill pass of one data-parallel rank.
    pub max_batched_tokens: f64,
    /// Variance of the joules of each cause, relative to their square, by [`crate::batch::phase::CAUSES`].
    pub cause_variance: [f64; 7],
    /// Variance of all joules that is common to all causes, relative to their square.
    pub common_variance: f64,
    /// Largest batch and context of the measurements behind the fits; a batch of 0 if the point is outside them anyway.
    pub range: Range,
}
