//! Collective operations, and how long each takes inside a node: implementations with coefficients by number of GPUs.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::phase::Phase;

/// A collective operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Sums; every GPU has the result.
    AllReduce,
    /// Concatenates; every GPU has the result.
    AllGather,
    /// Sums; every GPU has its part of the result.
    ReduceScatter,
    /// Every GPU sends another message to every other.
    AllToAll,
    /// One GPU sends to one other.
    SendRecv,
    /// Tokens travel to the GPUs of their experts.
    Dispatch,
    /// Results of experts travel back to the GPUs of their tokens.
    Combine,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AllReduce,
        Self::AllGather,
        Self::ReduceScatter,
        Self::AllToAll,
        Self::SendRecv,
        Self::Dispatch,
        Self::Combine,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::SendRecv => "send_recv",
            Self::Dispatch => "dispatch",
            Self::Combine => "combine",
        }
    }
}

/// One implementation of a collective inside a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Implementation {
    /// Name, such as `nccl`.
    pub name: String,
    /// Largest message it takes.
    pub max_bytes: Option<f64>,
    /// Coefficients by number of GPUs.
    pub by_gpus: BTreeMap<u32, LinkCurve>,
    /// Of `dispatch` and `combine`: the phase it is for; none is both.
    #[serde(default)]
    pub phase: Option<Phase>,
    /// Copies of a token it sends.
    #[serde(default)]
    pub copies: Copies,
    /// Bytes it sends of one element, scales included; absent: those of an activation.
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

/// Coefficients of the seconds of a message of Y bytes inside a node: `alpha + root·√Y + bus factor·Y/bandwidth` (Eq. 7.6).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct LinkCurve {
    /// Seconds of an empty message.
    pub alpha_s: f64,
    /// Seconds per square root of a byte: messages of middle size take longer than latency and bandwidth say.
    #[serde(default)]
    pub root_s_per_sqrt_byte: f64,
    /// Bandwidth of the bus for large messages.
    pub bandwidth_bytes_per_s: f64,
    /// Largest message it holds for.
    #[serde(default)]
    pub max_bytes: Option<f64>,
}

impl Implementation {
    /// Coefficients for `members` GPUs: those of the smallest listed number that is not smaller, else of the largest.
    pub fn curve(&self, members: u32) -> Option<LinkCurve> {
        self.by_gpus.range(members..).next().or_else(|| self.by_gpus.iter().next_back()).map(|(_, curve)| *curve)
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
    /// Implementations of an operation in a phase. Without any for `dispatch` and `combine`, tokens travel by those of
    /// `all_to_all`.
    pub fn of(&self, operation: Operation, phase: Option<Phase>) -> Vec<&Implementation> {
        let listed = match operation {
            Operation::AllReduce => &self.all_reduce,
            Operation::AllGather => &self.all_gather,
            Operation::ReduceScatter => &self.reduce_scatter,
            Operation::AllToAll => &self.all_to_all,
            Operation::SendRecv => &self.send_recv,
            Operation::Dispatch => &self.dispatch,
            Operation::Combine => &self.combine,
        };
        let fits = |item: &&Implementation| phase.is_none_or(|wanted| item.phase.is_none_or(|only| only == wanted));
        let fitting: Vec<&Implementation> = listed.iter().filter(fits).collect();
        if fitting.is_empty() { self.all_to_all.iter().collect() } else { fitting }
    }
}
