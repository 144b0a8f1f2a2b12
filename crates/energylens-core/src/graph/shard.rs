//! Which ranks are split over which mesh axes.

use std::collections::BTreeMap;

use super::Axis;
use super::names::letter;
use crate::einsum::Rank;
use crate::error::{Problem, Problems, Step};
use crate::input::plan::{ModelSpec, RankSpec};

/// Shard maps of the model and of each block.
pub struct Shards {
    /// The model's entries.
    pub model: Vec<(Rank, Axis)>,
    /// The entries of each block, which replace the model's; no axis means not split.
    pub blocks: Vec<Vec<(Rank, Option<Axis>)>>,
    /// Whether `repeat: pp` is among them.
    pub pipelined: bool,
}

/// Reads and checks the `shard` entries of a model and of its blocks.
pub fn shard(spec: &ModelSpec, ranks: &BTreeMap<Rank, RankSpec>, problems: &mut Problems) -> Shards {
    let mut pipelined = false;
    let mut read = |entries: &[(String, String)], place: &[Step]| -> Vec<(Rank, Option<Axis>)> {
        let mut splits = Vec::new();
        for (name, axis_name) in entries {
            let at: Vec<Step> = [place, &["shard".into(), name.as_str().into()]].concat();
            let mut fault =
                |code, message: String, hint: String| problems.push(Problem::new(code, message).hint(hint).inside(&at));
            let known: Vec<&str> = Axis::ALL.iter().map(|(n, _)| *n).collect();
            let axis = Axis::ALL.iter().find(|(n, _)| n == axis_name).map(|(_, axis)| *axis);
            if axis.is_none() && axis_name != "none" {
                fault(
                    "unknown-axis",
                    format!("unknown mesh axis `{axis_name}`"),
                    format!("axes are {}, or none", known.join(", ")),
                );
                continue;
            }
            if name == "repeat" {
                match axis {
                    Some(Axis::Pp) => pipelined = true,
                    _ => fault("axis", format!("`repeat` cannot take `{axis_name}`"), "`repeat` takes pp".to_owned()),
                }
                continue;
            }
            let Some(rank) = letter(name).filter(|c| *c == 'b' || ranks.contains_key(c)) else {
                let hint = if name == "s" || name == "t" {
                    "tokens of one sequence stay together; split heads, columns, experts, sequences or layers"
                        .to_owned()
                } else {
                    format!("ranks are {}b, repeat", ranks.keys().map(|r| format!("{r}, ")).collect::<String>())
                };
                fault("unknown-rank", format!("rank `{name}` cannot be split"), hint);
                continue;
            };
            let is_routed = ranks.get(&rank).is_some_and(|r| r.active.is_some());
            let wanted: &[Axis] = match rank {
                'b' => &[Axis::Dp],
                _ if is_routed => &[Axis::Ep],
                _ => &[Axis::Tp, Axis::MoeTp],
            };
            if let Some(other) = axis.filter(|a| !wanted.contains(a)) {
                let names: Vec<&str> = wanted.iter().map(|a| a.name()).collect();
                fault(
                    "axis",
                    format!("rank `{rank}` cannot take `{}`", other.name()),
                    format!("it takes {}", names.join(" or ")),
                );
                continue;
            }
            splits.push((rank, axis));
        }
        splits
    };
    let model = read(&spec.shard, &[]);
    let blocks =
        spec.blocks.iter().enumerate().map(|(i, block)| read(&block.shard, &["blocks".into(), i.into()])).collect();
    Shards { model: model.into_iter().filter_map(|(rank, axis)| axis.map(|a| (rank, a))).collect(), blocks, pipelined }
}
