//! A GPU profile as the plan holds it: complete numbers, sources stripped or ignored.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::clock::Clock;
use super::collectives::Collectives;
use super::dtype::{Arithmetic, Dtype};
use super::kernels::{Kernels, TimeSet};
use super::link::Link;
use super::uncertainty::{Range, Uncertainty};
use crate::error::Problem;

/// What is known of one GPU type.
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
    /// Bytes taken by the CUDA context, graphs and communication buffers.
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
    /// Limit of the board in watts.
    pub tdp_w: f64,
    /// Watts of a loaded GPU that waits.
    pub static_w: f64,
    /// Watts besides while a kernel runs, whatever it does.
    #[serde(default)]
    pub active_w: f64,
    /// Watts besides during exposed communication.
    #[serde(default)]
    pub communication_w: f64,
    /// Joules of a step for each of its sequences: sampling.
    #[serde(default)]
    pub sequence_j: f64,
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
        let valid = |&(m, n, share): &(u32, u32, f64)| m.is_power_of_two() && n.is_power_of_two() && share > 0.0;
        if let Some((class, (format, _))) =
            tiled.find(|(_, (_, set))| set.tiles.is_empty() || !set.tiles.iter().all(valid))
        {
            let problem = Problem::new("tiles", "tiles have powers of two as rows and columns, and a share above 0");
            return Err(problem.inside(&["kernels".into(), class.into(), format.as_str().into(), "tiles".into()]));
        }
        Ok(())
    }

    /// Arithmetic that products of a number format are computed in: 16-bit where the GPU has no narrower units, or no
    /// coefficients of theirs.
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
