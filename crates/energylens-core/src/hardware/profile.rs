//! A GPU profile as the plan holds it: complete numbers, sources stripped or ignored.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::clock::Clock;
use super::curve::Implementation;
use super::dtype::{Arithmetic, Dtype};
use crate::cost::collective::Operation;
use crate::cost::overlap::Contention;
use crate::error::Problem;
use crate::input::plan::Phase;
use crate::numeric::exact::power;

/// Everything known of one GPU type.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    /// Name, unique in its plan.
    pub name: String,
    /// Device memory.
    pub memory: Memory,
    /// Compute units and peaks.
    pub compute: Compute,
    /// Power limits and floors.
    pub power: Power,
    /// Links between GPUs.
    pub link: Link,
    /// SM clocks.
    #[serde(default)]
    pub clock: Clock,
    /// The host's part of a step.
    pub host: Host,
    /// Time coefficients.
    pub kernels: Kernels,
    /// Energy coefficients.
    pub energy: Energy,
    /// Collective curves by operation.
    pub collectives: Collectives,
    /// Relative standard deviations of predictions.
    #[serde(default)]
    pub uncertainty: Uncertainty,
    /// Where the fits hold.
    #[serde(default)]
    pub range: Range,
}

/// Device memory.
#[derive(Clone, Debug, Deserialize)]
pub struct Memory {
    /// Size.
    pub capacity_bytes: f64,
    /// Peak bandwidth.
    pub bandwidth_bytes_per_s: f64,
    /// Taken by context, graphs and communication buffers.
    pub reserve_bytes: f64,
}

/// Compute units and peaks.
#[derive(Clone, Debug, Deserialize)]
pub struct Compute {
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Dense peaks by arithmetic, and `vector`.
    pub peak_flops: Peaks,
}

/// Dense peaks.
#[derive(Clone, Debug, Deserialize)]
pub struct Peaks {
    /// 16-bit tensor cores.
    pub bf16: f64,
    /// 8-bit tensor cores.
    pub fp8: Option<f64>,
    /// 4-bit tensor cores.
    pub fp4: Option<f64>,
    /// fp32 outside tensor cores.
    pub vector: f64,
}

/// Power limits and floors.
#[derive(Clone, Debug, Deserialize)]
pub struct Power {
    /// Board limit.
    pub tdp_w: f64,
    /// Draw of a loaded GPU that waits.
    pub static_w: f64,
    /// More while a kernel runs, whatever it does.
    #[serde(default)]
    pub active_w: f64,
    /// More during exposed communication.
    #[serde(default)]
    pub communication_w: f64,
    /// Joules of a step for each of its sequences: sampling.
    #[serde(default)]
    pub sequence_j: f64,
}

/// Links between GPUs.
#[derive(Clone, Debug, Deserialize)]
pub struct Link {
    /// GPUs that share the fast link.
    pub gpus_per_node: u32,
    /// Network bandwidth of one GPU.
    pub net_bandwidth_bytes_per_s: f64,
    /// Network latency of one collective.
    pub net_alpha_s: f64,
    /// Whether switches of the network add up (SHARP): an all-reduce sends each byte once.
    #[serde(default)]
    pub net_reduction: bool,
    /// SMs a collective needs for its full bandwidth.
    pub sms_to_saturate: f64,
    /// How sharply it saturates: exponent of the smooth maximum; at once if there is none.
    #[serde(default)]
    pub sms_sharpness: Option<f64>,
    /// Contention of kernels and collectives that run at once.
    #[serde(default)]
    pub contention: Contention,
}

impl Link {
    /// How many times slower a collective on so many SMs is than on those it wants.
    pub fn slower(&self, sms: f64) -> f64 {
        let lacking = self.sms_to_saturate / sms;
        match self.sms_sharpness {
            None => lacking.max(1.0),
            Some(sharpness) => power(1.0 + power(lacking, sharpness), 1.0 / sharpness),
        }
    }

    /// Share of the communication's watts that so many SMs draw.
    pub fn drawing(&self, sms: f64) -> f64 {
        (sms / self.sms_to_saturate).min(1.0)
    }
}

/// The host's part of a step.
#[derive(Clone, Debug, Deserialize)]
pub struct Host {
    /// Seconds of a step in which the GPU waits for the host.
    pub host_s: f64,
    /// Seconds of a step for each of its sequences: sampling and bookkeeping.
    #[serde(default)]
    pub sequence_s: f64,
}

/// Time coefficients.
#[derive(Clone, Debug, Deserialize)]
pub struct Kernels {
    /// Dense products by number format.
    pub gemm: BTreeMap<String, TimeSet>,
    /// Grouped products by number format.
    pub grouped_gemm: BTreeMap<String, TimeSet>,
    /// Attention over a prompt, by format of the cache.
    pub attention_prefill: BTreeMap<String, TimeSet>,
    /// Attention of single tokens, by format of the cache.
    pub attention_decode: BTreeMap<String, TimeSet>,
    /// Everything bound by memory.
    pub elementwise: TimeSet,
}

/// Coefficients of one kernel class.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct TimeSet {
    /// Launch floor.
    pub t0_s: f64,
    /// Reached share of the peak.
    pub compute_efficiency: f64,
    /// Reached share of the bandwidth.
    pub memory_efficiency: f64,
    /// Small-transfer penalty.
    #[serde(default)]
    pub root_s_per_sqrt_byte: f64,
    /// Exponent of the smooth maximum.
    pub sharpness: u32,
    /// Candidate output tiles: rows, columns, and the share of the reached rate they keep.
    #[serde(default)]
    pub tiles: Vec<(u32, u32, f64)>,
    /// Rows whose FLOPs a grouped product spends on padding, for each expert hit.
    #[serde(default)]
    pub padding_rows: f64,
    /// Share of the experts that no token hit which a grouped product works on all the same.
    #[serde(default)]
    pub idle_experts: f64,
    /// Depth that beginning and end of a tile are worth.
    #[serde(default)]
    pub depth_0: f64,
    /// Seconds of putting a cut depth together.
    #[serde(default)]
    pub split_s: f64,
    /// Bytes moved for each input element of a product, at the full bandwidth and after the product: its quantisation.
    #[serde(default)]
    pub quantise_bytes: f64,
    /// Seconds of each expert hit.
    #[serde(default)]
    pub expert_s: f64,
    /// Bytes moved for each element of the tokens, once for each of their experts, at the full bandwidth.
    #[serde(default)]
    pub routed_bytes: f64,
    /// Seconds of each sequence and KV head in decode.
    #[serde(default)]
    pub sequence_head_s: f64,
    /// Exponent of (head size / 128) in the reached rate.
    #[serde(default)]
    pub head_dim_power: f64,
    /// How many times the longest block of a prompt counts besides all FLOPs.
    #[serde(default)]
    pub length_factor: f64,
    /// Visible tokens that beginning and end of a wave are worth.
    #[serde(default)]
    pub wave_depth: f64,
    /// Rows to which a prompt is padded.
    #[serde(default = "one")]
    pub pad_rows: f64,
}

fn one() -> f64 {
    1.0
}

/// Energy coefficients.
#[derive(Clone, Debug, Deserialize)]
pub struct Energy {
    /// Per FLOP by arithmetic.
    pub flop_j: FlopEnergy,
    /// Per byte through L1 and shared memory.
    pub on_chip_j_per_byte: f64,
    /// Per weight byte from memory.
    pub hbm_weight_j_per_byte: f64,
    /// Per KV byte from or to memory.
    pub hbm_kv_j_per_byte: f64,
    /// Per activation byte from or to memory.
    pub hbm_activation_j_per_byte: f64,
    /// Per byte of an all-reduce's message.
    pub link_j_per_byte: f64,
}

/// Energy per FLOP.
#[derive(Clone, Debug, Deserialize)]
pub struct FlopEnergy {
    /// 16-bit.
    pub bf16: f64,
    /// 8-bit.
    pub fp8: Option<f64>,
    /// 4-bit.
    pub fp4: Option<f64>,
    /// Outside tensor cores.
    pub vector: f64,
}

/// Relative standard deviations: of joules by cause, and of all joules of a kind of model.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Uncertainty {
    /// FLOPs and on-chip bytes.
    pub compute: f64,
    /// Weight bytes.
    pub hbm_weights: f64,
    /// Cache bytes.
    pub hbm_kv: f64,
    /// Activation bytes.
    pub hbm_activations: f64,
    /// Collectives.
    pub communication: f64,
    /// Waiting power under kernels.
    #[serde(rename = "static")]
    pub fixed: f64,
    /// Waiting power under nothing.
    pub waiting: f64,
    /// Of every model.
    pub common: f64,
    /// Besides, of models with routed experts.
    pub routed: f64,
    /// Besides, of weights of 8 bits and fewer.
    pub narrow: f64,
}

impl Default for Uncertainty {
    /// What a profile without measurements is taken to miss: a quarter, more for what varies most.
    fn default() -> Self {
        Self {
            compute: 0.25,
            hbm_weights: 0.25,
            hbm_kv: 0.25,
            hbm_activations: 0.25,
            communication: 0.5,
            fixed: 0.25,
            waiting: 0.5,
            common: 0.2,
            routed: 0.2,
            narrow: 0.2,
        }
    }
}

impl Uncertainty {
    /// Those that are of all joules.
    pub fn others(&self) -> [f64; 3] {
        [self.common, self.routed, self.narrow]
    }

    /// By cause, in the order of [`crate::batch::phase::CAUSES`].
    pub fn causes(&self) -> [f64; 7] {
        [
            self.compute,
            self.hbm_weights,
            self.hbm_kv,
            self.hbm_activations,
            self.communication,
            self.fixed,
            self.waiting,
        ]
    }
}

/// The largest values that measurements behind the fits reach.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Range {
    /// Sequences of a batch.
    pub batch: f64,
    /// Tokens a sequence can see.
    pub context_tokens: f64,
    /// GPUs of an engine.
    pub gpus: f64,
}

impl Default for Range {
    fn default() -> Self {
        Self { batch: f64::INFINITY, context_tokens: f64::INFINITY, gpus: f64::INFINITY }
    }
}

/// Collective curves by operation.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Collectives {
    /// Sum, known to all.
    pub all_reduce: Vec<Implementation>,
    /// Concatenation, known to all.
    pub all_gather: Vec<Implementation>,
    /// Sum, each keeps its part.
    pub reduce_scatter: Vec<Implementation>,
    /// Each to each.
    pub all_to_all: Vec<Implementation>,
    /// One to one.
    pub send_recv: Vec<Implementation>,
    /// Tokens to the GPUs of their experts.
    #[serde(default)]
    pub dispatch: Vec<Implementation>,
    /// And back.
    #[serde(default)]
    pub combine: Vec<Implementation>,
}

impl Collectives {
    /// Implementations of an operation; tokens go to their experts as all else does where there are none for them.
    pub fn of(&self, operation: Operation, phase: Option<Phase>) -> Vec<&Implementation> {
        let own = match operation {
            Operation::AllReduce => &self.all_reduce,
            Operation::AllGather => &self.all_gather,
            Operation::ReduceScatter => &self.reduce_scatter,
            Operation::AllToAll => &self.all_to_all,
            Operation::SendRecv => &self.send_recv,
            Operation::Dispatch => &self.dispatch,
            Operation::Combine => &self.combine,
        };
        let fits = |one: &&Implementation| phase.is_none_or(|asked| one.phase.is_none_or(|own| own == asked));
        let found: Vec<&Implementation> = own.iter().filter(fits).collect();
        if found.is_empty() { self.all_to_all.iter().collect() } else { found }
    }
}

impl Profile {
    /// Largest relative standard deviation.
    const MOST_DEVIATION: f64 = 1e6;

    /// Checks numbers that have to be in a certain relation.
    ///
    /// # Errors
    /// The first that are not.
    pub fn check(&self) -> Result<(), Problem> {
        if self.power.static_w >= self.power.tdp_w {
            let message = format!("static_w {} is not below tdp_w {}", self.power.static_w, self.power.tdp_w);
            let hint = "a GPU that waits draws less than its limit";
            return Err(Problem::new("power", message).hint(hint).inside(&["power".into(), "static_w".into()]));
        }
        let kernels = &self.kernels;
        let attention = kernels.attention_prefill.values().chain(kernels.attention_decode.values());
        let sets =
            kernels.gemm.values().chain(kernels.grouped_gemm.values()).chain(attention).chain([&kernels.elementwise]);
        if let Some(set) = sets.into_iter().find(|set| !set.sharpness.is_power_of_two()) {
            let problem = Problem::new("sharpness", format!("sharpness {} is not a power of two", set.sharpness));
            return Err(problem.inside(&["kernels".into()]));
        }
        if self.compute.sms == 0 || self.link.gpus_per_node == 0 {
            let problem = Problem::new("count", "a GPU has at least one SM, a node at least one GPU");
            return Err(problem.inside(&["compute".into(), "sms".into()]));
        }
        let most = Self::MOST_DEVIATION;
        let deviations = self.uncertainty.causes().into_iter().chain(self.uncertainty.others());
        if let Some(wrong) = deviations.into_iter().find(|deviation| !(0.0..=most).contains(deviation)) {
            let problem =
                Problem::new("uncertainty", format!("a relative deviation of {wrong} is not between 0 and {most}"));
            return Err(problem.inside(&["uncertainty".into()]));
        }
        let mut tiled =
            kernels.gemm.iter().map(|x| ("gemm", x)).chain(kernels.grouped_gemm.iter().map(|x| ("grouped_gemm", x)));
        let whole = |&(m, n, share): &(u32, u32, f64)| m.is_power_of_two() && n.is_power_of_two() && share > 0.0;
        if let Some((class, (format, _))) =
            tiled.find(|(_, (_, set))| set.tiles.is_empty() || !set.tiles.iter().all(whole))
        {
            let problem = Problem::new("tiles", "tiles have powers of two as rows and columns, and a share above 0");
            return Err(problem.inside(&["kernels".into(), class.into(), format.as_str().into(), "tiles".into()]));
        }
        Ok(())
    }

    /// Arithmetic really used for a number format: 16-bit where there are no narrower units.
    pub fn arithmetic(&self, format: Dtype) -> Arithmetic {
        let wanted = format.arithmetic;
        let has = |peak: Option<f64>| {
            let known =
                |sets: &BTreeMap<String, TimeSet>| sets.contains_key(format.name) || sets.contains_key(wanted.name());
            peak.is_some() && known(&self.kernels.gemm) && known(&self.kernels.grouped_gemm)
        };
        match wanted {
            Arithmetic::Fp8 if has(self.compute.peak_flops.fp8) => Arithmetic::Fp8,
            Arithmetic::Fp4 if has(self.compute.peak_flops.fp4) => Arithmetic::Fp4,
            _ => Arithmetic::Bf16,
        }
    }

    /// Dense peak of an arithmetic.
    pub fn peak(&self, arithmetic: Arithmetic) -> f64 {
        let peaks = &self.compute.peak_flops;
        match arithmetic {
            Arithmetic::Bf16 => Some(peaks.bf16),
            Arithmetic::Fp8 => peaks.fp8,
            Arithmetic::Fp4 => peaks.fp4,
        }
        .unwrap_or(peaks.bf16)
    }

    /// Joules per FLOP of an arithmetic.
    pub fn flop_j(&self, arithmetic: Arithmetic) -> f64 {
        let energy = &self.energy.flop_j;
        match arithmetic {
            Arithmetic::Bf16 => Some(energy.bf16),
            Arithmetic::Fp8 => energy.fp8,
            Arithmetic::Fp4 => energy.fp4,
        }
        .unwrap_or(energy.bf16)
    }
}
