//! Coefficients of kernel times, by kernel class and number format.

use std::collections::BTreeMap;

use serde::Deserialize;

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
