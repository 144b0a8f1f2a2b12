//! The canonical JSON plan: what a person wrote, checked for form and frozen.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Problem, Problems, Step};
use crate::hardware::profile::Profile;
use crate::phase::{Phase, Phases};
use crate::routing::Law;

/// A plan: models, GPUs and settings, to which points refer by position.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSpec {
    /// Version of this format.
    pub format: u32,
    /// Engine settings shared by all points.
    pub settings: Settings,
    /// Models, by position.
    pub models: Vec<ModelSpec>,
    /// GPU profiles, by position.
    pub gpus: Vec<Profile>,
    /// Routing laws that points may use.
    #[serde(default)]
    pub routings: Vec<NamedLaw>,
}

/// A routing law with its name.
#[derive(Clone, Debug, Deserialize)]
pub struct NamedLaw {
    /// Its name.
    pub name: String,
    /// The law.
    #[serde(flatten)]
    pub law: Law,
}

/// Engine settings shared by all points.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Most prompt tokens in one prefill pass of one data-parallel rank.
    pub max_batched_tokens: f64,
}

/// Extent of a rank; of a routed rank also how tokens choose among its values.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RankSpec {
    /// Number of index values.
    pub extent: u64,
    /// Of a routed rank: how many of its values (experts) a token chooses.
    pub active: Option<u64>,
    /// Of a routed rank: how tokens choose.
    #[serde(default)]
    pub routing: Law,
    /// Of a routed rank: number of equal groups of its values, in order, to some of which a token is limited.
    #[serde(default)]
    pub groups: Option<u64>,
    /// Of a routed rank: how many of the groups a token may choose from.
    #[serde(default)]
    pub active_groups: Option<u64>,
}

/// Which cached tokens a new token attends to: all before it, or the newest of them (Eq. 5.11).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MaskSpec {
    /// Sliding window in tokens; none is plain causal.
    pub window: Option<u64>,
}

/// How a kernel and the collective behind it run at the same time.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct OverlapSpec {
    /// Number of slices of the kernel's rows.
    pub stages: u32,
    /// SMs that the collective uses.
    pub sms: u32,
    /// Phases in which they overlap; absent: both.
    #[serde(default, rename = "where")]
    pub phases: Option<Phases>,
}

impl OverlapSpec {
    /// Phases in which they overlap.
    pub fn phases(&self) -> Phases {
        self.phases.unwrap_or(Phases::Both)
    }
}

/// A kernel: one launch of equations fused together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelSpec {
    /// Name, unique in its block.
    pub name: String,
    /// Equations, in order.
    pub equations: Vec<String>,
    /// Phase it is limited to.
    pub phase: Option<Phase>,
}

/// Kernels, repeated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSpec {
    /// Name, unique in its model.
    pub name: String,
    /// How many times it runs in one pass.
    pub repeat: u64,
    /// Kernels, in order.
    pub kernels: Vec<KernelSpec>,
    /// Entries that replace the model's.
    #[serde(default)]
    pub shard: Vec<(String, String)>,
    /// Masks that replace the model's, by tensor.
    #[serde(default)]
    pub mask: BTreeMap<String, MaskSpec>,
    /// Overlaps that replace the model's, by kernel.
    #[serde(default)]
    pub overlap: BTreeMap<String, OverlapSpec>,
}

/// One model as a graph of einsums.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name, unique in its plan.
    pub name: String,
    /// Rank extents.
    pub ranks: BTreeMap<String, RankSpec>,
    /// Blocks, in order.
    pub blocks: Vec<BlockSpec>,
    /// Tensors that stay in memory from step to step: the KV cache.
    pub cache: Vec<String>,
    /// Masks by tensor.
    #[serde(default)]
    pub mask: BTreeMap<String, MaskSpec>,
    /// Data types by kind (`weights`, `activations`, `cache`) or tensor.
    pub dtypes: BTreeMap<String, String>,
    /// Rank to mesh axis, in order.
    pub shard: Vec<(String, String)>,
    /// Overlaps by kernel.
    #[serde(default)]
    pub overlap: BTreeMap<String, OverlapSpec>,
    /// Weights shared between blocks; they are held once.
    #[serde(default)]
    pub tied: Vec<String>,
}

impl PlanSpec {
    /// Reads the canonical JSON.
    ///
    /// # Errors
    /// A [`Problem`] with the path of the first field that has the wrong form.
    pub fn from_json(text: &str) -> Result<Self, Problems> {
        let reader = &mut serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(reader).map_err(|error| {
            let path = error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
                    serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
                    _ => None,
                })
                .collect::<Vec<_>>();
            Problem::new("form", error.inner().to_string()).inside(&path).into()
        })
    }
}
