//! Identities that hold for every point, and for every text given to the parser.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use energylens_core::batch::serve::{COLUMNS, Columns, Served, column_names};
use energylens_core::cost::collective::{Collective, Group};
use energylens_core::cost::env::Env;
use energylens_core::einsum::parse::parse;
use energylens_core::engine::space::{Listed, Space};
use energylens_core::engine::{Plan, Schedule, Visitor};
use energylens_core::explain;
use energylens_core::hardware::collectives::Operation;
use energylens_core::hardware::link::Contention;
use energylens_core::input::run_options::Running;
use energylens_core::lowering::mesh::Reason;
use energylens_core::numeric::shape::Poly;
use energylens_core::numeric::simd::Level;
use energylens_core::phase::Phases;
use energylens_core::reduce::front::{Front, dominates};
use energylens_core::reduce::groups::Grouping;
use energylens_core::reduce::{Reduction, Wanted};
use proptest::prelude::*;

fn column(name: &str) -> usize {
    column_names().iter().position(|c| c == name).unwrap()
}

prop_compose! {
    fn points()(tp in 1..9_u32, pp in 1..7_u32, dp in 1..5_u32, ep in 1..9_u32, batch in 1..300_u32, prompt in 1..9000_u32, output in 1..700_u32)
        -> energylens_core::engine::Point {
        let (batch, prompt_tokens, output_tokens) = (f64::from(batch), f64::from(prompt), f64::from(output));
        energylens_core::engine::Point { tp, pp, dp, ep, batch, prompt_tokens, output_tokens, ..common::point() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_parser_never_panics_and_prints_what_it_read(text in "[A-Za-z\\[\\](),=* é]{0,40}") {
        if let Ok(equation) = parse(&text) {
            prop_assert_eq!(parse(&equation.to_string()).map(|e| e.to_string()), Ok(equation.to_string()));
        }
    }

    #[test]
    fn energy_is_not_negative_and_causes_add_up(points in prop::collection::vec(points(), 1..40)) {
        let table = common::plan().evaluate(points.as_slice(), ALL, 2).unwrap();
        for row in 0..points.len() {
            for values in &table.columns {
                prop_assert!(values[row].is_finite());
                prop_assert!(values[row] >= -1e-9);
            }
            let causes: f64 = table.columns[COLUMNS.len()..].iter().map(|values| values[row]).sum();
            let energy = table.columns[column("energy_j")][row];
            prop_assert!((causes - energy).abs() <= 1e-9 * energy);
        }
    }

    #[test]
    fn splitting_a_range_changes_nothing(cut in 0..4000_u64, threads in 1..4_usize) {
        let plan = common::plan();
        let space = space(&plan);
        let wanted = everything(&space);
        let cut = cut % space.size();
        let whole = reduced(&plan, &space, 0..space.size(), &wanted, Schedule::Best, threads);
        let mut left = reduced(&plan, &space, 0..cut, &wanted, Schedule::Direct, 1);
        left.merge(reduced(&plan, &space, cut..space.size(), &wanted, Schedule::Best, threads));
        prop_assert_eq!(told(&left), told(&whole));
    }

    #[test]
    fn overlap_never_takes_longer_than_one_after_the_other(c in 0.0..9.0_f64, r in 0.0..9.0_f64, slow_c in 0.0..2.0_f64, slow_r in 0.0..2.0_f64) {
        let free = Contention::default().both(c, r);
        prop_assert!(free <= c + r && free >= c.max(r));
        let both = Contention { compute: slow_c, communication: slow_r }.both(c, r);
        prop_assert!(both >= free - 1e-12 && both <= (c + r) * (1.0 + slow_c.max(slow_r)) + 1e-12);
    }

    #[test]
    fn more_sms_and_fewer_bytes_never_slow_a_collective(sms in 1..130_u16, bytes in 1.0..1e9_f64, more in 1.0..10.0_f64, tp in 2..9_u32) {
        let plan = common::plan();
        let profile = &plan.profiles[0];
        let (few, many) = (profile.link.slowdown(f64::from(sms)), profile.link.slowdown(f64::from(sms + 1)));
        prop_assert!(few >= many && many >= 1.0);
        let group = Group { size: tp, span: tp };
        let one = Collective::new(profile, Operation::AllReduce, group, Poly::constant(1.0)).unwrap();
        let at = |bytes: f64, slowdown: f64| one.seconds(&Env::<1>::default(), bytes, slowdown)[0];
        prop_assert!(at(bytes, few) >= at(bytes, many) && at(bytes * more, few) >= at(bytes, few));
        prop_assert!(one.joules().scaled(more).as_constant() >= one.joules().as_constant());
    }

    #[test]
    fn a_front_is_what_nothing_dominates(rows in prop::collection::vec(prop::collection::vec(0..6_u32, 3), 1..60)) {
        let rows: Vec<Vec<f64>> = rows.iter().map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect();
        let mut front = Front::new(3, None);
        for (index, row) in rows.iter().enumerate() {
            front.offer(index as u64, row);
        }
        let kept: Vec<u64> = front.members().iter().map(|m| m.index).collect();
        let expected: Vec<u64> =
            (0..rows.len()).filter(|i| !rows.iter().any(|other| dominates(other, &rows[*i]))).map(|i| i as u64).collect();
        prop_assert_eq!(kept, expected);
    }
}

const ALL: Columns = Columns::ALL;

/// A reduction of every kind at once.
fn everything(space: &Space) -> Wanted {
    Wanted {
        objectives: vec![
            (column("energy_per_output_token_j"), 1.0),
            (column("latency_s"), 1.0),
            (column("output_tokens_per_s"), -1.0),
        ],
        bounds: vec![(column("gpus"), 0.0, 8.0), (column("tpot_s"), 0.0, 0.01)],
        resolution: None,
        top: 7,
        groups: Grouping::new(space, &[2, 16, 18]),
        distributions: vec![column("ttft_s"), column("energy_decode_static_j")],
    }
}

fn reduced(
    plan: &Plan,
    space: &Space,
    range: std::ops::Range<u64>,
    wanted: &Wanted,
    schedule: Schedule,
    threads: usize,
) -> Reduction {
    let mut kept = Reduction::new(wanted.clone());
    let parts = plan.walk(space, range, wanted.columns(), schedule, threads, || kept.empty_sibling());
    parts.into_iter().for_each(|part| kept.merge(part));
    kept
}

/// Everything a reduction kept, in a form that can be compared.
fn told(kept: &Reduction) -> String {
    let bins: Vec<Vec<(u64, u64)>> = kept.bins.iter().map(|bins| bins.members().collect()).collect();
    let best: Vec<(u64, u64)> = kept.best.members().collect();
    format!(
        "{:?} {:?} {best:?} {bins:?} {:?} {}",
        kept.front.members(),
        kept.top.indices(),
        kept.by_reason,
        kept.outside
    )
}

/// Bits of all columns of all points of a walk.
struct Collected(std::collections::BTreeMap<u64, Vec<u64>>);

impl Visitor for Collected {
    fn refuse(&mut self, first: u64, count: u64, reason: Reason) {
        (first..first + count).for_each(|index| assert!(self.0.insert(index, vec![reason as u64]).is_none()));
    }

    fn block(&mut self, first: u64, stride: u64, count: usize, served: &Served) {
        for i in 0..count {
            let reason = std::iter::once(served.reasons[i]);
            let values = reason.chain(served.columns.iter().map(|lane| lane[i].to_bits())).collect();
            assert!(self.0.insert(first + i as u64 * stride, values).is_none(), "a point came twice");
        }
    }
}

fn collected(plan: &Plan, space: &Space, range: std::ops::Range<u64>, schedule: Schedule) -> Vec<(u64, Vec<u64>)> {
    let parts = plan.walk(space, range, ALL, schedule, 2, || Collected(std::collections::BTreeMap::new()));
    let mut all: Vec<(u64, Vec<u64>)> = parts.into_iter().flat_map(|part| part.0).collect();
    all.sort_by_key(|(index, _)| *index);
    all
}

/// Axes of lengths: even, uneven, beginning at one, long and short.
fn lengths() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        (1..40_u32, 1..70_u32, 1..33_u32)
            .prop_map(|(first, count, step)| (0..count).map(|i| first + i * step).collect()),
        (1..150_u32).prop_map(|count| (1..=count).collect()),
        prop::collection::btree_set(1..20_000_u32, 1..80).prop_map(|set| set.into_iter().collect()),
        prop::collection::vec(1..5000_u32, 1..50),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_schedules_give_the_same_bits(prompts in lengths(), outputs in lengths(), cuts in (0..100_000_u64, 0..100_000_u64)) {
        let plan = common::plan();
        let json = format!(
            r#"{{"model": [0], "gpu": [0], "weight_dtype": [null], "kv_dtype": [null], "tp": [1, 3, 4], "pp": [2], "dp": [1, 2], "ep": [1],
            "batch": [1, 6, 31], "prompt_tokens": {prompts:?}, "output_tokens": {outputs:?}}}"#
        );
        let space = Space::from_json(&json, 1, 1).unwrap();
        let (a, b) = (cuts.0 % space.size(), cuts.1 % space.size());
        let range = a.min(b)..a.max(b) + 1;
        let direct = collected(&plan, &space, range.clone(), Schedule::Direct);
        prop_assert_eq!(direct.len() as u64, range.end - range.start);
        prop_assert!(direct == collected(&plan, &space, range.clone(), Schedule::Best));
        let wanted = everything(&space);
        // With distributions and groups every point is evaluated; without them many are settled by bounds.
        let pruning = Wanted { groups: None, distributions: Vec::new(), ..wanted.clone() };
        let unlimited = Wanted { bounds: Vec::new(), top: 0, ..pruning.clone() };
        let thinned = Wanted { resolution: Some(3), ..unlimited.clone() };
        let others = [8, 9, 11, 12].map(|column| Wanted { objectives: vec![(column, 1.0), (5, 1.0)], ..unlimited.clone() });
        for wanted in [wanted, pruning, unlimited, thinned].iter().chain(&others) {
            let [one, other] = [Schedule::Direct, Schedule::Best].map(|s| reduced(&plan, &space, range.clone(), wanted, s, 2));
            prop_assert_eq!(told(&one), told(&other));
        }
        let indices: Vec<u64> = direct.iter().map(|(index, _)| *index).step_by(7).collect();
        let table = plan.evaluate(&Listed { space: &space, indices: &indices }, ALL, 1).unwrap();
        for (row, index) in indices.iter().enumerate() {
            let bits = &direct[(index - range.start) as usize].1;
            prop_assert_eq!(u64::from(table.reasons[row]), bits[0]);
            prop_assert!(bits[1..].iter().zip(&table.columns).all(|(bits, column)| column[row].to_bits() == *bits));
        }
    }
}

fn space(plan: &Plan) -> Space {
    let json = r#"{"model": [0], "gpu": [0], "weight_dtype": [null, "fp8"], "kv_dtype": [null], "tp": [1, 2, 3, 4], "pp": [1, 2, 7],
        "dp": [1, 2], "ep": [1, 2, 8], "batch": [1, 3, 64, 500], "prompt_tokens": [100, 5000], "output_tokens": [1, 50]}"#;
    Space::from_json(json, plan.graphs.len(), plan.profiles.len()).unwrap()
}

/// A space large enough for tables of matrix products.
fn large_space() -> Space {
    let values = |n: u32, step: u32| (1..=n).map(|i| (i * step).to_string()).collect::<Vec<_>>().join(",");
    let json = format!(
        r#"{{"model": [0], "gpu": [0], "weight_dtype": [null], "kv_dtype": [null], "tp": [1, 4], "pp": [2], "dp": [1, 2], "ep": [1, 2],
        "batch": [{}], "prompt_tokens": [{}], "output_tokens": [1, 7, 300]}}"#,
        values(40, 7),
        values(40, 211)
    );
    Space::from_json(&json, 1, 1).unwrap()
}

/// A space with every way of running.
fn ways_space() -> Space {
    let json = r#"{"model": [0], "gpu": [0], "weight_dtype": [null], "kv_dtype": [null], "tp": [2], "pp": [1, 2], "dp": [1, 2],
        "ep": [2], "cp": [1, 2], "overlap_stages": [0, 3], "overlap_sms": [0, 9], "overlap_where": ["both", "prefill"],
        "sequence_parallel": [false, true], "sm_clock_mhz": [0, 1500], "power_cap_w": [0, 300],
        "batch": [3, 64], "prompt_tokens": [100, 500, 900, 1300, 5000], "output_tokens": [1, 50]}"#;
    Space::from_json(json, 1, 1).unwrap()
}

#[test]
fn every_way_of_running_gives_the_same_bits_on_every_schedule() {
    let (plan, space) = (common::plan(), ways_space());
    let walked = |schedule| {
        let parts =
            plan.walk(&space, 0..space.size(), ALL, schedule, 1, || Collected(std::collections::BTreeMap::new()));
        parts.into_iter().flat_map(|part| part.0).collect::<std::collections::BTreeMap<_, _>>()
    };
    let direct = walked(Schedule::Direct);
    assert_eq!(direct, walked(Schedule::Best));
    assert!(direct.values().filter(|values| values.len() > 1).count() > 200);
    let indices: Vec<u64> = (0..space.size()).collect();
    let table = plan.evaluate(&Listed { space: &space, indices: &indices }, ALL, 1).unwrap();
    for (row, index) in indices.iter().enumerate() {
        let bits: Vec<u64> = table.columns.iter().map(|values| values[row].to_bits()).collect();
        let walked = &direct[index];
        assert_eq!(walked[0], u64::from(table.reasons[row]));
        assert!(walked.len() == 1 || table.reasons[row] > 0 || walked[1..] == bits);
    }
}

#[test]
fn a_cap_without_clocks_repeats_the_plain_bits_or_cannot_be() {
    let mut json = common::plan_json();
    json["gpus"][0].as_object_mut().unwrap().remove("clock");
    let plan = Plan::from_json(&json.to_string()).unwrap();
    let json = r#"{"model": [0], "gpu": [0], "weight_dtype": [null], "kv_dtype": [null], "tp": [2], "pp": [1, 2], "dp": [1],
        "ep": [2], "cp": [1], "overlap_stages": [0], "overlap_sms": [0], "overlap_where": ["prefill"],
        "sequence_parallel": [false], "sm_clock_mhz": [0], "power_cap_w": [0, 160, 190, 700],
        "batch": [3, 64], "prompt_tokens": [100, 500, 900, 1300, 5000], "output_tokens": [1, 50]}"#;
    let space = Space::from_json(json, 1, 1).unwrap();
    let direct = collected(&plan, &space, 0..space.size(), Schedule::Direct);
    assert_eq!(direct, collected(&plan, &space, 0..space.size(), Schedule::Best));
    let with_cap = |watts: u16| -> Vec<&Vec<u64>> {
        let capped = |index: u64| space.point(index).running.power_cap_w == watts;
        direct.iter().filter(|(index, _)| capped(*index)).map(|(_, values)| values).collect()
    };
    let (plain, mut binding) = (with_cap(0), 0);
    for watts in [160, 190, 700] {
        for (capped, plain) in with_cap(watts).iter().zip(&plain) {
            binding += usize::from(capped[0] == Reason::Power as u64);
            assert!(capped == plain || (capped[0] == Reason::Power as u64 && watts < 700));
        }
    }
    assert!(binding > 0 && binding < 2 * plain.len(), "{binding} of {}", plain.len());
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let mut plan = common::plan();
    let space = large_space();
    let points: Vec<_> = (0..space.size()).map(|index| space.point(index)).collect();
    let wanted = everything(&space);
    plan.level = Level::Portable;
    let front = |plan: &Plan, threads| told(&reduced(plan, &space, 0..space.size(), &wanted, Schedule::Best, threads));
    let (table, expected) = (plan.evaluate(points.as_slice(), ALL, 1).unwrap(), front(&plan, 1));
    for level in Level::available() {
        plan.level = level;
        let again = plan.evaluate(points.as_slice(), ALL, 2).unwrap();
        assert_eq!(again.reasons, table.reasons);
        for (a, b) in again.columns.iter().zip(&table.columns) {
            assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", level.name());
        }
        assert_eq!(front(&plan, 2), expected);
    }
}

#[test]
fn tables_change_no_bit() {
    let plan = common::plan();
    let space = large_space();
    let points: Vec<_> = (0..space.size()).map(|index| space.point(index)).collect();
    let with_tables = plan.evaluate(points.as_slice(), ALL, 1).unwrap();
    for (first, chunk) in points.chunks(97).enumerate().step_by(11) {
        let without = plan.evaluate(chunk, ALL, 1).unwrap();
        for (a, b) in without.columns.iter().zip(&with_tables.columns) {
            assert!(a.iter().enumerate().all(|(i, a)| a.to_bits() == b[first * 97 + i].to_bits()));
        }
    }
}

#[test]
fn kernels_one_by_one_add_up_to_the_whole() {
    let plan = common::plan();
    let overlapped = |overlap_stages, fused_norm, sm_clock_mhz, power_cap_w| Running {
        overlap_stages,
        overlap_sms: if overlap_stages > 1 { 20 } else { 0 },
        overlap_where: if overlap_stages > 1 { Phases::Both } else { Phases::Prefill },
        fused_norm,
        sm_clock_mhz,
        power_cap_w,
        ..Running::default()
    };
    for running in [Running::default(), overlapped(3, false, 0, 0), overlapped(0, false, 1500, 0)] {
        for (tp, dp, ep) in [(2, 2, 4), (4, 1, 1), (2, 2, 2)] {
            let point = energylens_core::engine::Point { tp, dp, ep, running, ..common::point() };
            assert_adds_up(&plan, &point, 120.0);
        }
    }
    let sequence = Running { sequence_parallel: true, ..overlapped(3, false, 0, 0) };
    for (cp, running) in
        [(2, Running::default()), (1, sequence), (2, Running { overlap_stages: 0, ..Running::default() })]
    {
        assert_adds_up(&plan, &energylens_core::engine::Point { tp: 4, cp, running, ..common::point() }, 120.0);
    }
}

fn assert_adds_up(plan: &Plan, point: &energylens_core::engine::Point, static_w: f64) {
    let table = plan.evaluate([*point].as_slice(), ALL, 1).unwrap();
    assert_eq!(table.reasons, [0], "{point:?}");
    let stories = explain::point(plan, point).unwrap();
    let gpus = f64::from(point.tp * point.dp * point.cp);
    let static_w = match point.running.sm_clock_mhz {
        0 => static_w,
        mhz => static_w * (80.0 + 40.0 * (f64::from(mhz) - 600.0) / 1380.0) / 120.0,
    };
    let joules = |phase: &str| -> f64 {
        let own = stories.iter().filter(|s| s.phase == phase);
        own.map(|s| s.runs * (s.compute_j + s.hbm_weights_j + s.hbm_kv_j + s.hbm_activations_j + s.link_j)).sum::<f64>()
            * gpus
    };
    let seconds = |phase: &str| -> f64 {
        stories.iter().filter(|s| s.phase == phase).map(|s| s.runs * (s.kernel_s + s.communication_s)).sum()
    };
    let at = |name: &str| table.columns[column(name)][0];
    let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
    close(seconds("prefill"), at("ttft_s"));
    close(seconds("decode"), at("tpot_s"));
    close(joules("prefill") + gpus * static_w * at("ttft_s"), at("energy_prefill_j"));
    close(joules("decode") + gpus * static_w * at("tpot_s"), at("energy_decode_step_j"));
}

#[test]
fn digits_and_index_are_inverse() {
    let plan = common::plan();
    let space = space(&plan);
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..space.size() {
        assert!(seen.insert(space.digits(index)));
    }
    assert_eq!(space.digits(space.size() - 1), [0, 0, 1, 0, 3, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 1]);
}

#[test]
fn every_reason_is_given_when_it_applies() {
    let plan = common::plan();
    let base = common::point();
    let reason = |point| Reason::NAMES[usize::from(plan.evaluate([point].as_slice(), ALL, 1).unwrap().reasons[0])];
    let with = |tp, pp, dp, ep, batch| energylens_core::engine::Point { tp, pp, dp, ep, batch, ..base };
    assert_eq!(reason(with(1, 1, 1, 1, 8.0)), "ok");
    assert_eq!(reason(with(2, 1, 1, 4, 8.0)), "ep");
    assert_eq!(reason(with(1, 1, 3, 3, 8.0)), "experts");
    assert_eq!(reason(with(3, 1, 1, 1, 8.0)), "shard");
    assert_eq!(reason(with(0, 1, 1, 1, 8.0)), "shard");
    assert_eq!(reason(with(1, 7, 1, 1, 8.0)), "layers");
    assert_eq!(reason(with(1, 1, 8, 1, 4.0)), "batch");
    assert_eq!(reason(with(1, 1, 1, 1, 1e6)), "memory");
    let run = |tp, running| energylens_core::engine::Point { tp, running, ..base };
    let stages = |overlap_stages, overlap_sms| Running { overlap_stages, overlap_sms, ..Running::default() };
    assert_eq!(reason(run(2, stages(2, 8))), "ok");
    assert_eq!(reason(run(1, stages(2, 8))), "overlap");
    assert_eq!(reason(run(2, stages(2, 132))), "overlap");
    assert_eq!(reason(run(1, Running { sequence_parallel: true, ..Running::default() })), "shard");
    assert_eq!(reason(run(1, Running { fused_norm: true, ..Running::default() })), "shard");
    assert_eq!(reason(run(1, Running { sm_clock_mhz: 2000, ..Running::default() })), "clock");
    assert_eq!(reason(run(1, Running { power_cap_w: 120, ..Running::default() })), "power");
    assert_eq!(reason(run(1, Running { power_cap_w: 701, ..Running::default() })), "power");
}
