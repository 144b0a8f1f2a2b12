//! Coefficients by number of GPUs: the smallest listed size that is large enough.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::input::plan::Phase;

/// One implementation of a collective inside a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Implementation {
    /// Name, such as `nccl`.
    pub name: String,
    /// Largest message it takes.
    pub max_bytes: Option<f64>,
    /// Coefficients by number of GPUs.
    pub by_gpus: BTreeMap<u32, LinkCurve>,
    /// Of a way to send tokens to their experts: the phase it is for; none is both.
    #[serde(default)]
    pub phase: Option<Phase>,
    /// Copies of a token it sends.
    #[serde(default)]
    pub copies: Copies,
    /// Bytes it sends of one element, scales included; as many as activations have if nobody says.
    #[serde(default)]
    pub bytes_per_element: Option<f64>,
}

/// How many copies of a token are sent.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Copies {
    /// One for each of its experts.
    #[default]
    Expert,
    /// One to each GPU that has any of its experts.
    Gpu,
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
