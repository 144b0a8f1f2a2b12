//! How ranks are split over GPUs, and when they cannot be.

use crate::einsum::Rank;
use crate::graph::{Axis, Block, Graph};
use crate::numeric::shape::{B, Poly, S, T};

/// Why a point cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// It can.
    Ok = 0,
    /// ep does not fit the mesh, or there are no experts.
    Ep = 1,
    /// ep does not divide the experts.
    Experts = 2,
    /// A rank cannot be split.
    Shard = 3,
    /// More pipeline stages than layers.
    Layers = 4,
    /// Fewer sequences than data-parallel ranks.
    Batch = 5,
    /// It does not fit into memory.
    Memory = 6,
    /// Stages and SMs of overlap do not go together, or there is nothing to overlap.
    Overlap = 7,
    /// The GPU cannot be locked to the clock.
    Clock = 8,
    /// The power cap is not between what a waiting GPU draws and the limit, or binds where no clocks are known to lower.
    Power = 9,
    /// A law of routing that the model has no experts for, or other ones.
    Routing = 10,
    /// A placement without experts to place, or whose copies do not divide.
    Placement = 11,
    /// Seconds, joules or bytes beyond what can be calculated with.
    Overflow = 12,
}

impl Reason {
    /// All reasons' names, by code.
    #[rustfmt::skip]
    pub const NAMES: [&'static str; 13] = [
        "ok", "ep", "experts", "shard", "layers", "batch", "memory", "overlap", "clock", "power", "routing", "placement",
        "overflow",
    ];
}

/// A reason with the values that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infeasible {
    /// Code.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
    /// What would do.
    pub hint: String,
    /// The rank at fault.
    pub rank: Option<Rank>,
}

/// How many ways ranks are split (Eq. 3.1); those that are not listed are not split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways(Vec<(Rank, u32)>);

impl Ways {
    /// Ways of one rank.
    pub fn of(&self, rank: Rank) -> u32 {
        self.0.iter().find(|(r, _)| *r == rank).map_or(1, |(_, ways)| *ways)
    }
}

/// Largest degree of parallelism, far beyond that of any engine.
const MOST_WAYS: u32 = 1024;

/// Degrees of parallelism of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mesh {
    /// Tensor parallelism.
    pub tp: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Attention data parallelism.
    pub dp: u32,
    /// Expert parallelism.
    pub ep: u32,
    /// Context parallelism.
    pub cp: u32,
}

impl Mesh {
    /// GPUs of one context-parallel rank of a pipeline stage: tp·dp = ep·moe_tp (Eq. 1.1).
    pub fn pool_gpus(&self) -> u32 {
        self.tp.saturating_mul(self.dp)
    }

    /// GPUs of one pipeline stage.
    pub fn stage_gpus(&self) -> u32 {
        self.pool_gpus().saturating_mul(self.cp)
    }

    /// GPUs of one engine (Eq. 1.2).
    pub fn gpus(&self) -> u32 {
        self.stage_gpus().saturating_mul(self.pp)
    }

    /// Tensor parallelism inside experts.
    pub fn moe_tp(&self) -> u32 {
        self.pool_gpus() / self.ep
    }

    /// Size of an axis.
    pub fn size(&self, axis: Axis) -> u32 {
        match axis {
            Axis::Tp => self.tp,
            Axis::Dp => self.dp,
            Axis::Ep => self.ep,
            Axis::MoeTp => self.moe_tp(),
            Axis::Pp => self.pp,
        }
    }

    /// Checks that a model can be laid out on this mesh.
    ///
    /// # Errors
    /// The first reason, in the order of the documentation.
    pub fn check(&self, graph: &Graph) -> Result<(), Infeasible> {
        let fault = |reason, message: String, hint: String| Err(Infeasible { reason, message, hint, rank: None });
        let stage = self.pool_gpus();
        if [self.tp, self.pp, self.dp, self.ep, self.cp].iter().any(|degree| !(1..=MOST_WAYS).contains(degree)) {
            let message = format!("a degree of parallelism is not between 1 and {MOST_WAYS}");
            return fault(Reason::Shard, message, "use fewer GPUs".to_owned());
        }
        match graph.routed {
            None if self.ep != 1 => {
                let message = format!("expert parallel degree {}, but {} has no experts", self.ep, graph.name);
                return fault(Reason::Ep, message, "use ep 1".to_owned());
            }
            _ if !stage.is_multiple_of(self.ep) => {
                let message = format!("expert parallel degree {} does not divide tp·dp = {stage} GPUs", self.ep);
                return fault(Reason::Ep, message, format!("use {}", divisors(u64::from(stage))));
            }
            Some(routed) if !(routed.extent as u64).is_multiple_of(u64::from(self.ep)) => {
                return Err(Infeasible {
                    reason: Reason::Experts,
                    message: format!("expert parallel degree {} does not divide {} experts", self.ep, routed.extent),
                    hint: format!("use {}", divisors(routed.extent as u64)),
                    rank: Some(routed.rank),
                });
            }
            _ => {}
        }
        for block in &graph.blocks {
            for line in block.kernels.iter().flat_map(|kernel| &kernel.lines) {
                self.ways(graph, block, &line.all_ranks, line.routed)?;
            }
        }
        let splits = |axis: Axis| graph.blocks.iter().any(|block| block.shard.iter().any(|(_, a)| *a == axis));
        if self.tp > 1 && ![Axis::Tp, Axis::MoeTp, Axis::Ep].into_iter().any(splits) {
            let message = format!("tp {}, but {} splits no rank over tp", self.tp, graph.name);
            return fault(Reason::Shard, message, "add a rank to `shard`, as in `f: tp`".to_owned());
        }
        if self.dp > 1 && !graph.data_parallel {
            let message = format!("dp {}, but {} does not shard b over dp", self.dp, graph.name);
            return fault(Reason::Shard, message, "add `b: dp` to `shard`".to_owned());
        }
        if self.pp > 1 && (!graph.pipelined || u64::from(self.pp) > graph.layers()) {
            let message =
                format!("{} pipeline stages, but {} has {} layers to deal", self.pp, graph.name, graph.layers());
            let hint = if graph.pipelined {
                format!("use at most {}", graph.layers())
            } else {
                "add `repeat: pp` to `shard`".to_owned()
            };
            return fault(Reason::Layers, message, hint);
        }
        if self.cp > 1 && !graph.reads_cache() {
            let message = format!("cp {}, but no attention of {} reads a cache", self.cp, graph.name);
            return fault(Reason::Shard, message, "use cp 1".to_owned());
        }
        Ok(())
    }

    /// Degrees of one axis, the others unchanged, that a model could be split over: for a hint.
    pub fn alternatives(&self, graph: &Graph, axis: Axis) -> Vec<u32> {
        let with = |degree: u32| match axis {
            Axis::Tp => Self { tp: degree, ..*self },
            Axis::Ep | Axis::MoeTp => Self { ep: degree, ..*self },
            Axis::Dp => Self { dp: degree, ..*self },
            Axis::Pp => Self { pp: degree, ..*self },
        };
        (1..=128).filter(|degree| with(*degree).check(graph).is_ok()).collect()
    }

    /// How many ways each rank is split, among `ranks` that are used together (Eq. 3.1): an axis that one rank cannot take up
    /// goes on to the next.
    ///
    /// # Errors
    /// A rank that neither divides nor is divided by what is left of its axis.
    pub fn ways(&self, graph: &Graph, block: &Block, ranks: &[Rank], routed: bool) -> Result<Ways, Infeasible> {
        let mut ways = Ways(Vec::new());
        for axis in [Axis::Tp, Axis::MoeTp, Axis::Ep] {
            if routed == (axis == Axis::Tp) {
                continue;
            }
            let mut left = self.size(axis);
            for (rank, _) in block.shard.iter().filter(|(rank, a)| *a == axis && ranks.contains(rank)) {
                let extent = graph.ranks.get(rank).map_or(1, |r| r.extent);
                if !extent.is_multiple_of(u64::from(left)) && !u64::from(left).is_multiple_of(extent) {
                    return Err(Infeasible {
                        reason: Reason::Shard,
                        message: format!(
                            "{} {} does not divide rank {rank} of extent {extent}",
                            axis.name(),
                            self.size(axis)
                        ),
                        hint: String::new(),
                        rank: Some(*rank),
                    });
                }
                let taken = u32::try_from(u64::from(left).min(extent)).unwrap_or(left);
                ways.0.push((*rank, taken));
                left /= taken;
            }
        }
        Ok(ways)
    }

    /// Elements of a tensor, or of an equation's iteration space, on one GPU, as a monomial of b, s and t (Eq. 3.2).
    pub fn local(&self, graph: &Graph, block: &Block, ranks: &[Rank], routed: bool) -> Poly {
        let ways = self.ways(graph, block, ranks, routed).unwrap_or_default();
        let (mut bits, mut size) = (0, 1.0);
        for rank in ranks {
            match rank {
                'b' => bits |= B,
                's' => bits |= S,
                't' => bits |= T,
                _ => {
                    let extent = graph.ranks.get(rank).map_or(1.0, |r| r.extent as f64);
                    size *= match graph.routed {
                        Some(r) if r.rank == *rank && routed => f64::from(self.dp) * r.active / f64::from(self.ep),
                        _ => extent / f64::from(ways.of(*rank)),
                    };
                }
            }
        }
        Poly::monomial(bits, size)
    }

    /// Elements of the local slice of one expert's weight, the routed rank left out.
    pub fn expert_slice(&self, graph: &Graph, block: &Block, ranks: &[Rank]) -> f64 {
        let routed = graph.routed.map(|r| r.rank);
        let ways = self.ways(graph, block, ranks, true).unwrap_or_default();
        let of = |rank: &Rank| graph.ranks.get(rank).map_or(1.0, |r| r.extent as f64) / f64::from(ways.of(*rank));
        ranks.iter().filter(|rank| Some(**rank) != routed).map(of).product()
    }

    /// Elements of a weight held by one GPU.
    pub fn held(&self, graph: &Graph, block: &Block, ranks: &[Rank], routed: bool) -> f64 {
        match graph.routed {
            Some(r) if routed && ranks.contains(&r.rank) => {
                self.expert_slice(graph, block, ranks) * r.extent / f64::from(self.ep)
            }
            _ => self.local(graph, block, ranks, routed).as_constant().unwrap_or(0.0),
        }
    }
}

fn divisors(n: u64) -> String {
    let all: Vec<String> = (1..=n.min(1024)).filter(|d| n.is_multiple_of(*d)).map(|d| d.to_string()).collect();
    match all.len() {
        0..=8 => all.join(", "),
        _ => format!("{}, ...", all[..8].join(", ")),
    }
}
