//! Coefficients of kernel times, by kernel class and number format.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Coefficients of kernel times, by kernel class and number format.
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

/// Coefficients of one kernel class and format (section 5 of the physics page).
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct TimeSet {
    /// Seconds of a launch that does nothing.
    pub t0_s: f64,
    /// Share of the peak FLOP/s that is reached.
    pub compute_efficiency: f64,
    /// Share of the HBM bandwidth that is reached.
    pub memory_efficiency: f64,
    /// Seconds per square root of a byte: small transfers take longer than the bandwidth says (Eq. 5.3).
    #[serde(default)]
    pub root_s_per_sqrt_byte: f64,
    /// Exponent of the smooth maximum of work and bytes, a power of two (Eq. 5.2).
    pub sharpness: u32,
    /// Candidate output tiles: rows, columns, and the share of the reached rate they keep.
    #[serde(default)]
    pub tiles: Vec<(u32, u32, f64)>,
    /// Rows of padding that a grouped product computes for each expert worked on (Eq. 6.11).
    #[serde(default)]
    pub padding_rows: f64,
    /// Share of the experts that no token chose which a grouped product works on all the same (Eq. 6.7).
    #[serde(default)]
    pub idle_experts: f64,
    /// Depth that the beginning and end of a tile are worth (Eq. 5.5).
    #[serde(default)]
    pub depth_0: f64,
    /// Seconds of adding up the parts of a split depth (Eq. 5.5).
    #[serde(default)]
    pub split_s: f64,
    /// Bytes moved for each input element of a product to quantise it, at the full bandwidth (Eq. 5.6).
    #[serde(default)]
    pub quantise_bytes: f64,
    /// Seconds of each expert worked on (Eq. 6.9).
    #[serde(default)]
    pub expert_s: f64,
    /// Bytes moved for each element of a token and each of its experts, to sort tokens by expert, at the full bandwidth
    /// (Eq. 6.9).
    #[serde(default)]
    pub routed_bytes: f64,
    /// Seconds of each sequence and KV head in decode (Eq. 5.8).
    #[serde(default)]
    pub sequence_head_s: f64,
    /// Exponent of (head size / 128) in the rate that is reached (Eq. 5.7).
    #[serde(default)]
    pub head_dim_power: f64,
    /// Weight of the longest block of a prompt, which all others wait for (Eq. 5.9).
    #[serde(default)]
    pub length_factor: f64,
    /// Visible tokens that the beginning and end of a wave are worth (Eq. 5.9).
    #[serde(default)]
    pub wave_depth: f64,
    /// Rows to a multiple of which a prompt is padded (Eq. 5.9).
    #[serde(default = "no_padding")]
    pub pad_rows: f64,
}

/// Prompts padded to multiples of one row are not padded.
fn no_padding() -> f64 {
    1.0
}
