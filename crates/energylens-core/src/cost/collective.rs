//! Collectives inside a node and across nodes, by message size.

use super::env::Env;
use crate::graph::Routed;
use crate::hardware::collectives::{Copies, Implementation, Operation};
use crate::hardware::profile::Profile;
use crate::numeric::lanes::Lane;
use crate::numeric::shape::Poly;
use crate::phase::Phase;

impl Operation {
    /// Whether each sends to each what is meant for it alone.
    pub fn each_to_each(self) -> bool {
        matches!(self, Self::AllToAll | Self::Dispatch | Self::Combine)
    }

    /// Network latencies one after the other: the depth of a tree of nodes; one where each node sends to each.
    pub fn hops(self, nodes: u32) -> f64 {
        match self {
            _ if nodes <= 1 => 0.0,
            _ if self == Self::SendRecv || self.each_to_each() => 1.0,
            _ => f64::from(u32::BITS - (nodes - 1).leading_zeros()),
        }
    }

    /// Share of an all-reduce's joules for a byte of message: it reads and writes all of it, others half of that.
    pub fn moved(self) -> f64 {
        if self == Self::AllReduce { 1.0 } else { 0.5 }
    }

    /// Bytes over the bus per byte of message, among `n`.
    pub fn bus_factor(self, n: f64) -> f64 {
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::SendRecv => 1.0,
            _ => (n - 1.0) / n,
        }
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// GPUs.
    pub size: u32,
    /// GPUs from the first to the last of them.
    pub span: u32,
}

/// What of the busiest GPU all wait for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Awaited {
    /// All have as much to do.
    Nothing,
    /// Choices of experts there.
    Choices,
    /// Tokens with any there.
    Tokens,
}

#[derive(Clone, Debug, PartialEq)]
struct Choice {
    max_bytes: f64,
    alpha_s: f64,
    root: f64,
    seconds_per_byte: f64,
}

impl Choice {
    /// Whether another takes every message that this one takes, never slower.
    fn yields_to(&self, other: &Self) -> bool {
        self.max_bytes <= other.max_bytes
            && self.alpha_s >= other.alpha_s
            && self.root >= other.root
            && self.seconds_per_byte >= other.seconds_per_byte
    }
}

/// Choices without those that are never the fastest.
fn useful(choices: Vec<Choice>) -> Vec<Choice> {
    let mut kept: Vec<Choice> = Vec::with_capacity(choices.len());
    for choice in choices {
        if !kept.iter().any(|other| choice.yields_to(other)) {
            kept.retain(|other| !other.yields_to(&choice));
            kept.push(choice);
        }
    }
    kept
}

/// One collective of one mapping, its constants resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Collective {
    /// Operation.
    pub operation: Operation,
    /// Members.
    pub group: Group,
    /// Message bytes.
    pub message: Poly,
    /// Whether it completes sums over tp and nothing else.
    pub over_tp: bool,
    /// What of the busiest GPU tells how long it takes.
    awaited: Awaited,
    choices: Vec<Choice>,
    net_alpha_s: f64,
    net_seconds_per_byte: f64,
    joules_per_byte: f64,
}

impl Collective {
    /// Resolves the coefficients; none for a group of one.
    pub fn new(profile: &Profile, operation: Operation, group: Group, message: Poly) -> Option<Self> {
        Self::only(profile, operation, group, message, &|_| true)
    }

    /// The same with some of the implementations alone.
    pub fn only(
        profile: &Profile,
        operation: Operation,
        group: Group,
        message: Poly,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Option<Self> {
        let all = profile.collectives.of(operation, None);
        let some: Vec<&Implementation> = all.into_iter().filter(|one| wanted(&one.name)).collect();
        Self::made(profile, operation, group, message, &some, 1.0)
    }

    /// Tokens sent to their experts or back: `elements` of all tokens, of so many bytes each if nobody says otherwise.
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
        let ways = if first.bytes_per_element.is_some() { &known[..1] } else { &known[..] };
        let once = first.copies == Copies::Gpu;
        let copies = |n: f64| if once { routed.reach(n) } else { routed.active };
        let all = copies(f64::from(group.size));
        let (_, nodes) = Self::members(profile, operation, group);
        let message = elements.scaled(all * first.bytes_per_element.unwrap_or(bytes));
        let made = Self::made(profile, operation, group, message, ways, copies(f64::from(nodes)) / all)?;
        Some(Self { awaited: if once { Awaited::Tokens } else { Awaited::Choices }, ..made })
    }

    /// Members a node, and nodes.
    fn members(profile: &Profile, operation: Operation, group: Group) -> (f64, u32) {
        if operation == Operation::SendRecv {
            return if group.span > profile.link.gpus_per_node { (1.0, 2) } else { (2.0, 1) };
        }
        let nodes = group.span.div_ceil(profile.link.gpus_per_node).min(group.size);
        ((f64::from(group.size) / f64::from(nodes)).max(1.0), nodes)
    }

    /// Of implementations, of which the fastest takes a message; so much of it is for all nodes.
    fn made(
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
        let mut choices = vec![Choice { max_bytes: f64::INFINITY, alpha_s: 0.0, root: 0.0, seconds_per_byte: 0.0 }];
        if m > 1.0 {
            let inside = operation.bus_factor(m);
            let resolved = implementations.iter().filter_map(|implementation| {
                let curve = implementation.curve(m.ceil() as u32)?;
                Some(Choice {
                    max_bytes: [implementation.max_bytes, curve.max_bytes]
                        .into_iter()
                        .flatten()
                        .fold(f64::INFINITY, f64::min),
                    alpha_s: curve.alpha_s,
                    root: if operation == Operation::SendRecv { 0.0 } else { curve.root_s_per_sqrt_byte },
                    seconds_per_byte: inside / curve.bandwidth_bytes_per_s,
                })
            });
            choices = useful(resolved.collect());
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
            awaited: Awaited::Nothing,
            choices,
            net_alpha_s: profile.link.net_alpha_s * operation.hops(nodes),
            net_seconds_per_byte: across / profile.link.net_bandwidth_bytes_per_s,
            joules_per_byte: profile.energy.link_j_per_byte * operation.moved() * (within + beyond),
        })
    }

    /// The same, known to complete sums over tp and nothing else.
    #[must_use]
    pub fn over_tp(self) -> Self {
        Self { over_tp: true, ..self }
    }

    /// Seconds of a part of the message, its bytes inside the node so many times slower.
    #[inline(always)]
    pub fn seconds<const L: usize>(&self, env: &Env<L>, part: f64, slower: f64) -> Lane<L> {
        let mut bytes = [0.0; L];
        env.plain.add(&self.message, part, &mut bytes);
        let more = match self.awaited {
            Awaited::Nothing => None,
            Awaited::Choices => Some(&env.choices),
            Awaited::Tokens => Some(&env.tokens),
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
        for choice in &self.choices {
            let per_byte = choice.seconds_per_byte * slower;
            for i in 0..L {
                let time = choice.alpha_s + choice.root * roots[i] + bytes[i] * per_byte;
                let time = if bytes[i] <= choice.max_bytes { time } else { f64::INFINITY };
                best[i] = if time < best[i] { time } else { best[i] };
            }
        }
        for i in 0..L {
            best[i] += self.net_alpha_s + bytes[i] * self.net_seconds_per_byte;
        }
        best
    }

    /// Bytes of its parts.
    pub fn bytes(&self) -> usize {
        self.message.bytes() + self.choices.capacity() * size_of::<Choice>()
    }

    /// Dynamic joules of one GPU.
    pub fn joules(&self) -> Poly {
        self.message.scaled(self.joules_per_byte)
    }
}
