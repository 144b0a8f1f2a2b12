//! Every rule a model must keep, each with its message.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Names, equation_path, letter, places};
use super::{Line, Routed};
use crate::einsum::count::Work;
use crate::einsum::{Equation, Rank, TensorRef};
use crate::error::{Problem, Problems, Step, nearest};
use crate::hardware::dtype::dtype;
use crate::input::plan::{BlockSpec, ModelSpec, RankSpec};
use crate::routing::{Groups, MOST_EXPERTS};

/// Most index values of a rank that is not routed, far beyond any tensor's.
const MOST_EXTENT: u64 = 1 << 40;
/// Most runs of a block in a pass.
const MOST_REPEATS: u64 = 1 << 20;

const STEP_RANKS: [Rank; 3] = ['b', 's', 't'];
const KINDS: [&str; 3] = ["weights", "activations", "cache"];

/// Names and extents of ranks.
pub fn ranks(spec: &ModelSpec, problems: &mut Problems) -> BTreeMap<Rank, RankSpec> {
    let mut ranks = BTreeMap::new();
    for (name, rank) in &spec.ranks {
        let place: [Step; 2] = ["ranks".into(), name.as_str().into()];
        let mut fault = |code, message: String, hint: &str| {
            problems.push(Problem::new(code, message).hint(hint).inside(&place));
        };
        match letter(name) {
            None => fault("rank-name", format!("a rank is one letter, found `{name}`"), "use a single letter"),
            Some(c) if STEP_RANKS.contains(&c) => fault(
                "rank-name",
                format!("rank `{c}` is given by the step"),
                "b (sequences), s (new tokens) and t (visible tokens) have no fixed extent; use another letter",
            ),
            Some(c) => {
                if rank.extent == 0 {
                    fault("rank-extent", format!("rank `{c}` has extent 0"), "an extent is at least 1");
                }
                let most = if rank.active.is_some() { MOST_EXPERTS as u64 } else { MOST_EXTENT };
                if rank.extent > most {
                    let what = if rank.active.is_some() { "a routed rank has" } else { "a rank has" };
                    let message = format!("rank `{c}` has extent {}, more than {most}", rank.extent);
                    fault("rank-extent", message, &format!("{what} an extent of at most {most}"));
                }
                match rank.active {
                    Some(0) => {
                        fault("rank-active", format!("rank `{c}` has no active value"), "a token meets at least 1")
                    }
                    Some(k) if k > rank.extent => fault(
                        "rank-active",
                        format!("rank `{c}`: {k} active of {} is more than there are", rank.extent),
                        "active is at most extent",
                    ),
                    _ => {}
                }
                if let Some(message) = groups_fault(rank) {
                    fault(
                        "rank-groups",
                        format!("rank `{c}`: {message}"),
                        "`groups` divide the extent; one token meets `active_groups` of them, with room for its active",
                    );
                }
                ranks.insert(c, rank.clone());
            }
        }
    }
    if spec.blocks.is_empty() {
        problems.push(Problem::new("empty-model", "a model needs at least one block").inside(&["blocks".into()]));
    }
    let mut block_names = BTreeSet::new();
    for (i, block) in spec.blocks.iter().enumerate() {
        let at: [Step; 2] = ["blocks".into(), i.into()];
        if !block_names.insert(&block.name) {
            problems.push(Problem::new("twice", format!("two blocks are named `{}`", block.name)).inside(&at));
        }
        if block.repeat == 0 {
            problems.push(Problem::new("repeat", "a block runs at least once").inside(&["repeat".into()]).inside(&at));
        }
        if block.repeat > MOST_REPEATS {
            let message = format!("block `{}` runs {} times, more than {MOST_REPEATS}", block.name, block.repeat);
            let problem = Problem::new("repeat", message).hint("a model has fewer layers than that");
            problems.push(problem.inside(&["repeat".into()]).inside(&at));
        }
        if block.kernels.is_empty() {
            problems.push(Problem::new("empty-block", format!("block `{}` has no kernels", block.name)).inside(&at));
        }
        for (k, kernel) in block.kernels.iter().enumerate() {
            let at: [Step; 4] = ["blocks".into(), i.into(), "kernels".into(), k.into()];
            if kernel.equations.is_empty() {
                problems.push(
                    Problem::new("empty-kernel", format!("kernel `{}` has no equations", kernel.name)).inside(&at),
                );
            }
            if block.kernels[..k].iter().any(|other| other.name == kernel.name) {
                problems.push(Problem::new("twice", format!("two kernels are named `{}`", kernel.name)).inside(&at));
            }
        }
    }
    ranks
}

/// What is wrong with the groups of a rank.
fn groups_fault(rank: &RankSpec) -> Option<String> {
    let active = match (rank.groups, rank.active_groups) {
        (None, None) => return None,
        (groups, None) | (groups @ None, _) => {
            let absent = if groups.is_none() { "groups" } else { "active_groups" };
            return Some(format!("its groups lack `{absent}`"));
        }
        _ => rank.active,
    };
    let (groups, some) = (rank.groups.unwrap_or(1), rank.active_groups.unwrap_or(1));
    let Some(active) = active else { return Some("only a routed rank has groups".to_owned()) };
    if groups == 0 || some == 0 || !rank.extent.is_multiple_of(groups) {
        return Some(format!("{groups} groups, {some} of them active, of {}", rank.extent));
    }
    if some > groups || active > some * (rank.extent / groups) {
        return Some(format!("{active} active in {some} of {groups} groups of {}", rank.extent / groups));
    }
    None
}

/// The one routed rank.
pub fn routed(ranks: &BTreeMap<Rank, RankSpec>, problems: &mut Problems) -> Option<Routed> {
    let mut routed = ranks.iter().filter_map(|(rank, spec)| spec.active.map(|active| (*rank, spec, active)));
    let first = routed.next();
    if let Some((rank, ..)) = routed.next() {
        problems.push(
            Problem::new("routed-ranks", "a model has at most one routed rank")
                .hint("tokens are dealt to one set of experts; give the other rank a plain extent")
                .inside(&["ranks".into(), rank.to_string().as_str().into()]),
        );
    }
    first.map(|(rank, spec, active)| {
        let both = spec.groups.zip(spec.active_groups);
        let groups = both.map(|(number, active)| Groups { number: number as f64, active: active as f64 });
        Routed { rank, extent: spec.extent as f64, active: active as f64, groups }
    })
}

/// Equations use known ranks, make results from what they read, and read tensors with the ranks they were made with.
pub fn equations(
    spec: &ModelSpec,
    parsed: &[Vec<Vec<Equation>>],
    ranks: &BTreeMap<Rank, RankSpec>,
    names: &Names,
    problems: &mut Problems,
) {
    let mut first_use: BTreeMap<&str, &TensorRef> = BTreeMap::new();
    for (place, equation) in places(parsed) {
        let block = place.iter().find_map(|step| if let Step::Index(i) = step { Some(*i) } else { None }).unwrap_or(0);
        let fault = |problem: Problem| problem.inside(&place);
        for tensor in std::iter::once(&equation.result).chain(equation.reads()) {
            for rank in &tensor.ranks {
                if !STEP_RANKS.contains(rank) && !ranks.contains_key(rank) {
                    let known: Vec<String> = ranks.keys().map(ToString::to_string).collect();
                    let hint = format!("`ranks` has {}; the step gives b, s, t", known.join(", "));
                    let message = format!("unknown rank `{rank}` in `{tensor}`");
                    let (start, end) = tensor.span;
                    problems.push(fault(Problem::new("unknown-rank", message).at(start, end).hint(hint)));
                }
            }
        }
        for rank in &equation.result.ranks {
            if !equation.reads().any(|tensor| tensor.has(*rank)) {
                let message = format!("rank `{rank}` of the result `{}` is in no factor", equation.result);
                let (start, end) = equation.result.span;
                problems.push(fault(Problem::new("result-rank", message).at(start, end)));
            }
        }
        for factor in &equation.factors {
            let Some(function) = factor.function else { continue };
            let needed: &[usize] = match function.name() {
                "add" | "mul" => &[2, 3, 4],
                "embed" => &[2],
                "norm" => &[1, 2],
                _ => &[1],
            };
            if !needed.contains(&factor.args.len()) {
                let counts: Vec<String> = needed.iter().map(ToString::to_string).collect();
                let message = format!(
                    "`{}` takes {} arguments, found {}",
                    function.name(),
                    counts.join(" or "),
                    factor.args.len()
                );
                problems.push(fault(Problem::new("arguments", message).at(factor.span.0, factor.span.1)));
            }
            let lost = factor.args.iter().flat_map(|arg| &arg.ranks).find(|rank| !equation.result.has(**rank));
            if let (Some(rank), false, 1) = (lost, function.drops_ranks(), equation.factors.len()) {
                let message = format!(
                    "`{}` keeps every rank, but the result `{}` lacks `{rank}`",
                    function.name(),
                    equation.result
                );
                problems.push(fault(Problem::new("lost-rank", message).at(factor.span.0, factor.span.1)));
            }
        }
        for tensor in equation.reads() {
            match names.ranks_for(block, &tensor.name) {
                Some(made) => problems.0.extend(mismatch(tensor, made, ranks, spec).map(fault)),
                None => {
                    let first = first_use.entry(&tensor.name).or_insert(tensor);
                    problems.0.extend(mismatch(tensor, &first.ranks, ranks, spec).map(fault));
                }
            }
        }
        if let Some(made) = names.ranks_for(block, &equation.result.name) {
            problems.0.extend(mismatch(&equation.result, made, ranks, spec).map(fault));
        }
    }
}

/// A tensor read with another shape than it has.
fn mismatch(tensor: &TensorRef, made: &[Rank], ranks: &BTreeMap<Rank, RankSpec>, spec: &ModelSpec) -> Option<Problem> {
    let listed = |ranks: &[Rank]| ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let problem = |code, message: String| Problem::new(code, message).at(tensor.span.0, tensor.span.1);
    if tensor.ranks.len() != made.len() {
        let message = format!(
            "`{tensor}` has {} ranks, but it is `{}[{}]` elsewhere",
            tensor.ranks.len(),
            tensor.name,
            listed(made)
        );
        return Some(problem("mismatched-ranks", message));
    }
    for (read, made_along) in tensor.ranks.iter().zip(made) {
        match (*made_along, *read) {
            (a, b) if a == b => {}
            ('s', 't') if spec.cache.contains(&tensor.name) => {}
            ('s', 't') => {
                return Some(
                    problem("not-cached", format!("`{tensor}` is read along t but made along s, and is not cached"))
                        .hint(format!("add `{}` to `cache`", tensor.name)),
                );
            }
            (a, b) if STEP_RANKS.contains(&a) || STEP_RANKS.contains(&b) => {
                let message = format!("`{tensor}` has `{b}` where it is `{}[{}]` elsewhere", tensor.name, listed(made));
                return Some(problem("mismatched-ranks", message));
            }
            (a, b) => {
                let extent = |rank: Rank| ranks.get(&rank).map(|r| r.extent);
                if let (Some(ea), Some(eb)) = (extent(a), extent(b))
                    && ea != eb
                {
                    let message = format!(
                        "`{tensor}`: rank `{b}` has extent {eb}, but `{}` was made with `{a}` of extent {ea}",
                        tensor.name
                    );
                    return Some(problem("mismatched-extents", message).hint(format!(
                        "it is `{}[{}]` elsewhere",
                        tensor.name,
                        listed(made)
                    )));
                }
            }
        }
    }
    None
}

/// Names in `cache`, `mask`, `dtypes`, `overlap` and `tied` are those of tensors and kernels.
pub fn names(spec: &ModelSpec, names: &Names, problems: &mut Problems) {
    let made: Vec<&str> = names.made.keys().map(String::as_str).collect();
    let known: Vec<&str> = made.iter().copied().chain(names.weights.iter().map(String::as_str)).collect();
    let mut expect = |name: &str, among: &[&str], what: &str, place: Vec<Step>| {
        if !among.contains(&name) {
            let problem = Problem::new("unknown-name", format!("{what} `{name}`")).inside(&place);
            problems.push(match nearest(name, among.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem,
            });
        }
    };
    for (i, name) in spec.cache.iter().enumerate() {
        expect(name, &made, "no equation makes the cached tensor", vec!["cache".into(), i.into()]);
    }
    let kernels: Vec<&str> = spec.blocks.iter().flat_map(|b| &b.kernels).map(|k| k.name.as_str()).collect();
    let places = std::iter::once((Vec::new(), &spec.mask, &spec.overlap)).chain(
        spec.blocks.iter().enumerate().map(|(i, b)| (vec![Step::from("blocks"), i.into()], &b.mask, &b.overlap)),
    );
    for (place, mask, overlap) in places {
        let at = |section: &str, name: &str| [place.clone(), vec![section.into(), name.into()]].concat();
        for name in mask.keys() {
            expect(name, &made, "no equation makes the masked tensor", at("mask", name));
        }
        for name in overlap.keys() {
            expect(name, &kernels, "there is no kernel", at("overlap", name));
        }
    }
    for (i, name) in spec.tied.iter().enumerate() {
        let weights: Vec<&str> = names.weights.iter().map(String::as_str).collect();
        expect(name, &weights, "there is no weight", vec!["tied".into(), i.into()]);
    }
    for name in spec.dtypes.keys().filter(|name| !KINDS.contains(&name.as_str())) {
        expect(name, &known, "there is no tensor", vec!["dtypes".into(), name.as_str().into()]);
    }
    for kind in KINDS.iter().filter(|kind| !spec.dtypes.contains_key(**kind)) {
        problems.push(
            Problem::new("missing-dtype", format!("`dtypes` does not say what `{kind}` are"))
                .hint(format!("add `{kind}: bf16`"))
                .inside(&["dtypes".into()]),
        );
    }
    for (name, format) in &spec.dtypes {
        problems.gather(&["dtypes".into(), name.as_str().into()], dtype(format).map_err(Problems::from));
    }
    for (block, (name, overlap)) in spec
        .overlap
        .iter()
        .map(|o| (None, o))
        .chain(spec.blocks.iter().enumerate().flat_map(|(i, b)| b.overlap.iter().map(move |o| (Some(i), o))))
    {
        let mut place: Vec<Step> = block.map_or_else(Vec::new, |i| vec!["blocks".into(), i.into()]);
        place.extend(["overlap".into(), name.as_str().into()]);
        if overlap.stages == 0 || overlap.sms == 0 {
            problems.push(Problem::new("overlap", "overlap needs at least 1 stage and 1 SM").inside(&place));
        }
    }
}

/// Cached tensors are read along the visible tokens.
pub fn cached(spec: &ModelSpec, parsed: &[Vec<Vec<Equation>>], problems: &mut Problems) {
    for (i, name) in spec.cache.iter().enumerate() {
        let read = |equation: &Equation| equation.reads().any(|t| t.name == *name && t.has('t'));
        let made = |equation: &Equation| equation.result.name == *name;
        let mut all = parsed.iter().flatten().flatten();
        if all.clone().any(made) && !all.any(read) {
            problems.push(
                Problem::new("cache", format!("cached tensor `{name}` is never read along t"))
                    .hint("cache what attention reads for earlier tokens, usually keys and values")
                    .inside(&["cache".into(), i.into()]),
            );
        }
    }
}

/// Shared weights belong to blocks that run once.
pub fn tied(spec: &ModelSpec, problems: &mut Problems) {
    for (i, name) in spec.tied.iter().enumerate() {
        let uses = |block: &&BlockSpec| {
            let bracket = format!("{name}[");
            block.repeat > 1 && block.kernels.iter().flat_map(|k| &k.equations).any(|e| e.contains(&bracket))
        };
        if let Some(block) = spec.blocks.iter().find(uses) {
            problems.push(
                Problem::new("tied", format!("tied weight `{name}` is used in block `{}`, which repeats", block.name))
                    .hint("weights shared between blocks belong to blocks that run once")
                    .inside(&["tied".into(), i.into()]),
            );
        }
    }
}

/// A routed product has one row per token.
pub fn routed_rows(lines: &[Line], problems: &mut Problems, block: usize, kernel: usize) {
    for (l, line) in lines.iter().enumerate().filter(|(_, line)| line.grouped()) {
        let Work::Matrix(ranks) = &line.work else { continue };
        let (left, right) = (&ranks.rows, &ranks.columns);
        let tokens = |ranks: &[Rank]| ranks.len() == 2 && ranks.contains(&'b') && ranks.contains(&'s');
        if !tokens(left) && !tokens(right) || !ranks.batch.is_empty() {
            problems.push(
                Problem::new("routed-rows", "a product with experts has one row per token, `b` and `s`")
                    .hint("put other ranks into the experts' weights")
                    .inside(&equation_path(block, kernel, l)),
            );
        }
    }
}
