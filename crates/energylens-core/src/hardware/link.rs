//! Links between the GPUs of an engine, and what kernels and collectives cost each other when they run at once.

use serde::Deserialize;

use crate::numeric::exact::power;

/// How much slower kernels and collectives run while the other runs too: 0.1 is 10 % slower (Eq. 7.10).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Contention {
    /// Slow-down of kernels.
    pub compute: f64,
    /// Slow-down of collectives.
    pub communication: f64,
}

/// Links between GPUs.
#[derive(Clone, Debug, Deserialize)]
pub struct Link {
    /// GPUs that share the fast link.
    pub gpus_per_node: u32,
    /// Network bandwidth of one GPU, in each direction.
    pub net_bandwidth_bytes_per_s: f64,
    /// Seconds of one hop across the network.
    pub net_alpha_s: f64,
    /// Whether switches of the network add up (SHARP): an all-reduce sends each byte once.
    #[serde(default)]
    pub net_reduction: bool,
    /// SMs with which a collective saturates the link.
    pub sms_to_saturate: f64,
    /// How sharply it saturates: exponent of Eq. 7.11; absent: at once.
    #[serde(default)]
    pub sms_sharpness: Option<f64>,
    /// Contention of kernels and collectives that run at once.
    #[serde(default)]
    pub contention: Contention,
}

impl Link {
    /// How many times slower a collective is on so many SMs than on as many as saturate the link (Eq. 7.11).
    pub fn slowdown(&self, sms: f64) -> f64 {
        let lacking = self.sms_to_saturate / sms;
        match self.sms_sharpness {
            None => lacking.max(1.0),
            Some(sharpness) => power(1.0 + power(lacking, sharpness), 1.0 / sharpness),
        }
    }

    /// Share of the watts of communication that so many SMs draw (Eq. 7.14).
    pub fn power_share(&self, sms: f64) -> f64 {
        (sms / self.sms_to_saturate).min(1.0)
    }
}
