//! Coefficients by number of GPUs: the smallest listed size that is large enough.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::plan::Phase;

/// One implementation of a collective inside a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Implementation {
    /// Name, such as `nccl`.
    pub name: String,
    /// Largest message it takes.
    pub max_bytes: Option<f64>,
    /// Coefficients by number of GPUs.
    pub by_gpus: BTreeMap<u32, LinkCurve>,
}

/// How many copies of a token are sent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Copies {
    /// One for each of its experts.
    Expert,
    /// One to each GPU that has any of its experts.
    Gpu,
}

/// A way to send tokens to the GPUs of their experts, or back.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    /// Its curves.
    #[serde(flatten)]
    pub implementation: Implementation,
    /// Phase it is for; none is both.
    #[serde(default)]
    pub phase: Option<Phase>,
    /// Copies of a token.
    pub copies: Copies,
    /// Bytes sent of one element, scales included.
    pub bytes_per_element: f64,
}

/// `t = alpha + root·√S + busfactor·S/bandwidth`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct LinkCurve {
    /// Latency of an empty message.
    pub alpha_s: f64,
    /// Middle-size penalty.
    #[serde(default)]
    pub root_s_per_sqrt_byte: f64,
    /// Asymptotic bus bandwidth.
    pub bandwidth_bytes_per_s: f64,
    /// Largest message it holds for.
    #[serde(default)]
    pub max_bytes: Option<f64>,
}

impl Implementation {
    /// Coefficients for `members` GPUs.
    pub fn curve(&self, members: u32) -> Option<LinkCurve> {
        self.by_gpus.range(members..).next().or_else(|| self.by_gpus.iter().next_back()).map(|(_, curve)| *curve)
    }
}
