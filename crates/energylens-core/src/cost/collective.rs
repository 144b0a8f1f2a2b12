//! Collectives inside a node and across nodes, by message size (Eq. 7.5, 7.6).

use super::env::Env;
use crate::graph::Routed;
use crate::hardware::collectives::{Copies, Implementation, Operation};
use crate::hardware::profile::Profile;
use crate::numeric::lanes::Lane;
use crate::numeric::shape::Poly;
use crate::phase::Phase;

impl Operation {
    /// Whether each GPU sends something else to every other: then nothing is added up on the way.
    pub fn each_to_each(self) -> bool {
        matches!(self, Self::AllToAll | Self::Dispatch | Self::Combine)
    }

    /// Network latencies one after the other (Eq. 7.8): the depth of a tree of nodes; one where each node sends to each.
    pub fn hops(self, nodes: u32) -> f64 {
        match self {
            _ if nodes <= 1 => 0.0,
            _ if self == Self::SendRecv || self.each_to_each() => 1.0,
            _ => f64::from(u32::BITS - (nodes - 1).leading_zeros()),
        }
    }

    /// Joules of a byte of message over those of an all-reduce, which reads and writes all of it, others half (Eq. 7.9).
    pub fn moved(self) -> f64 {
        if self == Self::AllReduce { 1.0 } else { 0.5 }
    }

    /// Bytes over the bus per byte of message, among `n` GPUs or nodes (Eq. 7.7).
    pub fn bus_factor(self, n: f64) -> f64 {
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::SendRecv => 1.0,
            _ => (n - 1.0) / n,
        }
    }
}

/// The GPUs that take part in a collective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// How many.
    pub size: u32,
    /// GPUs from the first to the last of them, counted through the engine: decides how many nodes they span (Eq. 7.5).
    pub span: u32,
}

/// By what the busiest GPU receives more than a mean one: all wait for it (Eq. 7.4).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Imbalance {
    /// All receive as much.
    Nothing,
    /// By choices of its experts: each is a copy of a token.
    Choices,
    /// By tokens with any expert there: each is sent once.
    Tokens,
}

/// Coefficients of one implementation for the members of a node (first term of Eq. 7.6).
#[derive(Clone, Debug, PartialEq)]
struct Curve {
    max_bytes: f64,
    alpha_s: f64,
    root: f64,
    seconds_per_byte: f64,
}

impl Curve {
    /// Whether another takes every message that this one takes, never slower.
    fn is_dominated_by(&self, other: &Self) -> bool {
        self.max_bytes <= other.max_bytes
            && self.alpha_s >= other.alpha_s
            && self.root >= other.root
            && self.seconds_per_byte >= other.seconds_per_byte
    }
}

/// Curves without those that are never the fastest.
fn undominated(curves: Vec<Curve>) -> Vec<Curve> {
    let mut fastest: Vec<Curve> = Vec::with_capacity(curves.len());
    for curve in curves {
        if !fastest.iter().any(|other| curve.is_dominated_by(other)) {
            fastest.retain(|other| !other.is_dominated_by(&curve));
            fastest.push(curve);
        }
    }
    fastest
}

/// One collective of one mapping, its coefficients looked up; message and joules are of one GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Collective {
    /// What it does.
    pub operation: Operation,
    /// Which GPUs take part.
    pub group: Group,
    /// Bytes of its message (Y), by the tokens of a pass.
    pub message: Poly,
    /// Whether it completes sums over tp and nothing else: what sequence parallelism splits.
    pub over_tp: bool,
    /// By what its bytes are scaled to those of the busiest GPU.
    imbalance: Imbalance,
    curves: Vec<Curve>,
    net_alpha_s: f64,
    net_seconds_per_byte: f64,
    joules_per_byte: f64,
}

impl Collective {
    /// Looks up the coefficients of an operation; none for a group of one, which communicates nothing.
    pub fn new(profile: &Profile, operation: Operation, group: Group, message: Poly) -> Option<Self> {
        Self::only(profile, operation, group, message, &|_| true)
    }

    /// The same with only those implementations whose name `wanted` accepts.
    pub fn only(
        profile: &Profile,
        operation: Operation,
        group: Group,
        message: Poly,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Option<Self> {
        let all = profile.collectives.of(operation, None);
        let some: Vec<&Implementation> = all.into_iter().filter(|entry| wanted(&entry.name)).collect();
        Self::resolved(profile, operation, group, message, &some, 1.0)
    }

    /// A dispatch or a combine (Eq. 7.1): `elements` of the tokens, one copy each, of so many `bytes` each unless the
    /// profile's entry for it says otherwise.
    pub fn routed(
        profile: &Profile,
        (operation, phase): (Operation, Phase),
        group: Group,
        (elements, bytes): (&Poly, f64),
        routed: &Routed,
    ) -> Option<Self> {
        let known = profile.collectives.of(operation, Some(phase));
        let first = known.first()?;
        // An entry made for this says how many bytes it sends; anything else sends a copy for each expert.
        let entries = if first.bytes_per_element.is_some() { &known[..1] } else { &known[..] };
        let once = first.copies == Copies::Gpu;
        let copies = |n: f64| if once { routed.reach(n) } else { routed.active };
        let all = copies(f64::from(group.size));
        let (_, nodes) = Self::members(profile, operation, group);
        let message = elements.scaled(all * first.bytes_per_element.unwrap_or(bytes));
        let collective = Self::resolved(profile, operation, group, message, entries, copies(f64::from(nodes)) / all)?;
        Some(Self { imbalance: if once { Imbalance::Tokens } else { Imbalance::Choices }, ..collective })
    }

    /// Members in a node (μ), and nodes (h): Eq. 7.5. A send_recv spans two nodes if its engine does not fit into one.
    fn members(profile: &Profile, operation: Operation, group: Group) -> (f64, u32) {
        if operation == Operation::SendRecv {
            return if group.span > profile.link.gpus_per_node { (1.0, 2) } else { (2.0, 1) };
        }
        let nodes = group.span.div_ceil(profile.link.gpus_per_node).min(group.size);
        ((f64::from(group.size) / f64::from(nodes)).max(1.0), nodes)
    }

    /// Looks up the coefficients of implementations; across nodes the share `for_nodes` of a message counts.
    fn resolved(
        profile: &Profile,
        operation: Operation,
        group: Group,
        message: Poly,
        implementations: &[&Implementation],
        for_nodes: f64,
    ) -> Option<Self> {
        if group.size <= 1 {
            return None;
        }
        let (m, nodes) = Self::members(profile, operation, group);
        let mut curves = vec![Curve { max_bytes: f64::INFINITY, alpha_s: 0.0, root: 0.0, seconds_per_byte: 0.0 }];
        if m > 1.0 {
            let inside = operation.bus_factor(m);
            let resolved = implementations.iter().filter_map(|implementation| {
                let link = implementation.curve(m.ceil() as u32)?;
                Some(Curve {
                    max_bytes: [implementation.max_bytes, link.max_bytes]
                        .into_iter()
                        .flatten()
                        .fold(f64::INFINITY, f64::min),
                    alpha_s: link.alpha_s,
                    root: if operation == Operation::SendRecv { 0.0 } else { link.root_s_per_sqrt_byte },
                    seconds_per_byte: inside / link.bandwidth_bytes_per_s,
                })
            });
            curves = undominated(resolved.collect());
        }
        let rails = if operation.each_to_each() { 1.0 } else { m };
        let beyond = if nodes > 1 { for_nodes / rails } else { 0.0 };
        let within = if m > 1.0 { 1.0 } else { 0.0 };
        let once = profile.link.net_reduction && operation == Operation::AllReduce;
        let across = if once { beyond } else { operation.bus_factor(f64::from(nodes)) * beyond };
        Some(Self {
            operation,
            group,
            message,
            over_tp: false,
            imbalance: Imbalance::Nothing,
            curves,
            net_alpha_s: profile.link.net_alpha_s * operation.hops(nodes),
            net_seconds_per_byte: across / profile.link.net_bandwidth_bytes_per_s,
            joules_per_byte: profile.energy.link_j_per_byte * operation.moved() * (within + beyond),
        })
    }

    /// Marks it as completing sums over tp and nothing else.
    #[must_use]
    pub fn over_tp(self) -> Self {
        Self { over_tp: true, ..self }
    }

    /// Seconds of a share `part` of its message (Eq. 7.6), the bytes inside a node taking `slowdown` times as long (Eq. 7.11).
    #[inline(always)]
    pub fn seconds<const L: usize>(&self, env: &Env<L>, part: f64, slowdown: f64) -> Lane<L> {
        let mut bytes = [0.0; L];
        env.plain.add(&self.message, part, &mut bytes);
        let more = match self.imbalance {
            Imbalance::Nothing => None,
            Imbalance::Choices => Some(&env.choices),
            Imbalance::Tokens => Some(&env.tokens),
        };
        if let Some(more) = more {
            for i in 0..L {
                bytes[i] *= more[i];
            }
        }
        let (mut best, mut roots) = ([f64::INFINITY; L], [0.0; L]);
        for i in 0..L {
            roots[i] = bytes[i].sqrt();
        }
        for curve in &self.curves {
            let per_byte = curve.seconds_per_byte * slowdown;
            for i in 0..L {
                let time = curve.alpha_s + curve.root * roots[i] + bytes[i] * per_byte;
                let time = if bytes[i] <= curve.max_bytes { time } else { f64::INFINITY };
                best[i] = if time < best[i] { time } else { best[i] };
            }
        }
        for i in 0..L {
            best[i] += self.net_alpha_s + bytes[i] * self.net_seconds_per_byte;
        }
        best
    }

    /// Bytes it holds in memory.
    pub fn bytes(&self) -> usize {
        self.message.bytes() + self.curves.capacity() * size_of::<Curve>()
    }

    /// Dynamic joules of one GPU (Eq. 7.9).
    pub fn joules(&self) -> Poly {
        self.message.scaled(self.joules_per_byte)
    }
}
