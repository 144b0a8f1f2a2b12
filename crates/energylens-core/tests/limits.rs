//! What is kept stays within its bytes, what is stopped leaves nothing behind, and no number is beyond all numbers.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use energylens_core::batch::serve::Columns;
use energylens_core::engine::space::Space;
use energylens_core::engine::{Plan, Point, Points, Schedule};
use energylens_core::input::run_options::Running;
use energylens_core::lowering::mesh::Reason;
use energylens_core::reduce::{Reduction, Wanted};
use energylens_core::routing::table::known;
use energylens_core::routing::{Choice, Law, Placement};
use energylens_core::search::Search;
use energylens_core::system::stop::{Stopped, stoppable, stopped};
use proptest::prelude::*;
use serde_json::{Value, json};

fn clocked(sm_clock_mhz: u16, power_cap_w: u16) -> Point {
    Point { running: Running { sm_clock_mhz, power_cap_w, ..Running::default() }, ..common::point() }
}

fn space(plan: &Plan, changes: &Value) -> Space {
    let mut json = json!({
        "model": [0], "gpu": [0], "weight_dtype": [null], "kv_dtype": [null], "tp": [1], "pp": [1], "dp": [1], "ep": [1],
        "batch": [8], "prompt_tokens": [512], "output_tokens": [128]
    });
    json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Space::from_json(&json.to_string(), plan.graphs.len(), plan.profiles.len()).unwrap()
}

#[test]
fn clocks_and_caps_share_their_layouts_and_change_no_bits() {
    let text = common::plan_json().to_string();
    let caps = [0, 100, 200, 350, 500, 700, 800];
    let points: Vec<Point> =
        [0, 600, 900, 1200, 1980, 3000].iter().flat_map(|clock| caps.map(|cap| clocked(*clock, cap))).collect();
    let shared = Plan::from_json(&text).unwrap();
    let together = shared.evaluate(points.as_slice(), Columns::ALL, 2).unwrap();
    for (row, point) in points.iter().enumerate() {
        let alone = Plan::with_cache(&text, 0).unwrap().evaluate([*point].as_slice(), Columns::ALL, 1).unwrap();
        assert_eq!(alone.reasons[0], together.reasons[row], "{point:?}");
        for (one, all) in alone.columns.iter().zip(&together.columns) {
            assert_eq!(one[0].to_bits(), all[row].to_bits(), "{point:?}");
        }
    }
    let feasible = together.reasons.iter().filter(|reason| **reason == Reason::Ok as u8).count();
    assert!(feasible > 20, "{feasible}");
}

#[test]
fn what_is_kept_stays_within_its_bytes() {
    let plan = Plan::with_cache(&common::plan_json().to_string(), 1 << 20).unwrap();
    let clocks: Vec<u32> = (900..1980).step_by(20).collect();
    let caps: Vec<u32> = (150..700).step_by(5).collect();
    let space = space(&plan, &json!({"sm_clock_mhz": clocks, "power_cap_w": caps}));
    let mut reduction = Reduction::new(Wanted { objectives: vec![(3, 1.0), (0, 1.0)], ..Wanted::default() });
    reduction.walk(&plan, &space, 0..space.size(), Schedule::Best, 2);
    assert_eq!(reduction.by_reason.iter().sum::<u64>(), space.size());
    let (entries, bytes) = plan.cached();
    assert!(entries > 10 && bytes <= 1 << 20, "{entries} entries of {bytes} bytes");
}

/// Works until it is stopped, which it is at once.
fn interrupted<R>(work: impl FnOnce() -> R) -> Result<R, Stopped> {
    stoppable(
        || true,
        || {
            let begun = Instant::now();
            while !stopped() {
                assert!(begun.elapsed() < Duration::from_secs(5));
            }
            work()
        },
    )
}

#[test]
fn what_is_stopped_leaves_nothing_behind() {
    let plan = common::plan();
    let lengths: Vec<u32> = (1..=512).collect();
    let space = space(&plan, &json!({"batch": lengths, "prompt_tokens": lengths, "output_tokens": lengths}));
    let wanted = Wanted { objectives: vec![(3, 1.0), (0, 1.0)], ..Wanted::default() };
    let mut reduction = Reduction::new(wanted.clone());
    for schedule in [Schedule::Best, Schedule::Direct] {
        let begun = Instant::now();
        assert_eq!(interrupted(|| reduction.walk(&plan, &space, 0..space.size(), schedule, 2)), Err(Stopped));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!((reduction.by_reason.iter().sum::<u64>(), reduction.front.members()), (0, Vec::new()));
    }
    let mut searches = [Search::new(space.clone(), wanted.clone(), 64, 7), Search::new(space, wanted, 64, 7)];
    for _ in 0..3 {
        assert_eq!(interrupted(|| searches[0].step(&plan, 2)), Err(Stopped));
        searches.iter_mut().for_each(|search| search.step(&plan, 1).unwrap());
        let [stopped, through] = &searches;
        assert_eq!(stopped.seen(), through.seen());
        assert_eq!(stopped.population(), through.population());
        assert_eq!(stopped.archive.by_reason, through.archive.by_reason);
        assert_eq!(stopped.archive.front.members(), through.archive.front.members());
    }
}

/// Points whose call is to stop once mappings of some have been asked for.
struct StopsAfter {
    points: Vec<Point>,
    asked: Arc<AtomicUsize>,
}

impl StopsAfter {
    const MAPPINGS: usize = 10;
}

impl Points for StopsAfter {
    type Key = <[Point] as Points>::Key;

    fn rows(&self) -> usize {
        self.points.len()
    }

    fn read(&self, row: usize) -> (Self::Key, [f64; 3]) {
        self.points.as_slice().read(row)
    }

    fn point(&self, row: usize) -> Point {
        let begun = Instant::now();
        if self.asked.fetch_add(1, Ordering::Relaxed) + 1 == Self::MAPPINGS {
            while !stopped() {
                assert!(begun.elapsed() < Duration::from_secs(5));
            }
        }
        self.points[row]
    }
}

#[test]
fn a_list_stops_between_two_mappings() {
    let plan = common::plan();
    let ways = (100..1980).flat_map(|clock| [1, 2, 4, 8].map(|tp| Point { tp, ..clocked(clock, 0) }));
    let points = StopsAfter { points: ways.collect(), asked: Arc::default() };
    let asked = Arc::clone(&points.asked);
    let wanted = move || asked.load(Ordering::Relaxed) >= StopsAfter::MAPPINGS;
    let result = stoppable(wanted, || plan.evaluate(&points, Columns::ALL, 1).unwrap());
    assert!(matches!(result, Err(Stopped)));
    assert_eq!(points.asked.load(Ordering::Relaxed), StopsAfter::MAPPINGS);
}

#[test]
fn points_are_merged_all_or_none() {
    let mut reduction = Reduction::new(Wanted { objectives: vec![(3, 1.0), (0, 1.0)], top: 3, ..Wanted::default() });
    reduction.offer(7, &[1.0, 4.0], None);
    let points = || (8..1000).map(|index| (index, [2.0, 3.0 - index as f64 / 1000.0]));
    assert_eq!(interrupted(|| assert!(reduction.with_points(points()).is_none())), Err(Stopped));
    assert_eq!(reduction.front.members().len(), 1);
    let all = reduction.with_points(points()).unwrap();
    let members: Vec<u64> = all.front.members().iter().map(|member| member.index).collect();
    assert_eq!((members, all.top.indices()), (vec![7, 999], vec![7, 8, 9]));
}

#[test]
fn seconds_beyond_numbers_under_a_cap_are_no_matter_of_watts() {
    let mut json = common::plan_json();
    let reason = |json: &Value, power_cap_w: u16| {
        let plan = Plan::from_json(&json.to_string()).unwrap();
        let point = Point { batch: 1e6, prompt_tokens: 1e4, output_tokens: 1.0, ..clocked(0, power_cap_w) };
        let reasons = plan.evaluate([point].as_slice(), Columns::ALL, 1).unwrap().reasons;
        Reason::NAMES[usize::from(reasons[0])]
    };
    json["gpus"][0].as_object_mut().unwrap().remove("clock");
    json["gpus"][0]["memory"]["capacity_bytes"] = json!(1e30);
    assert_eq!([0, 250].map(|cap| reason(&json, cap)), ["ok", "power"]);
    json["gpus"][0]["host"]["host_s"] = json!(1e308);
    assert_eq!([0, 250].map(|cap| reason(&json, cap)), ["overflow", "overflow"]);
}

#[test]
fn a_table_that_was_stopped_is_not_kept() {
    let choice = Choice { experts: 96, active: 3, gpus: 4 };
    let mut empty = None;
    let result = interrupted(|| empty = Some(known(&Law::Dirichlet(0.77), choice, Placement::Contiguous)));
    assert_eq!(result, Err(Stopped));
    let hits = |table: &energylens_core::routing::Table| {
        table.loads(&energylens_core::routing::table::places(&[64.0])).hits[0]
    };
    assert_eq!(hits(&empty.unwrap()), 0.0);
    assert!(hits(&known(&Law::Dirichlet(0.77), choice, Placement::Contiguous)) > 1.0);
}

fn codes(json: &Value) -> Vec<&'static str> {
    Plan::from_json(&json.to_string()).err().map_or_else(Vec::new, |all| all.0.iter().map(|one| one.code).collect())
}

#[test]
fn sizes_beyond_any_model_are_refused_with_the_number() {
    for (extent, refused) in [(65_536_u64, false), (65_537, true), (1 << 32, true), (u64::MAX, true)] {
        let mut json = common::plan_json();
        json["models"][0]["ranks"]["x"]["extent"] = json!(extent);
        assert_eq!(codes(&json) == ["rank-extent"], refused, "{extent}");
        if refused {
            let message = Plan::from_json(&json.to_string()).unwrap_err().to_string();
            assert_eq!(message, format!("rank `x` has extent {extent}, more than 65536"));
        }
    }
    let mut json = common::plan_json();
    json["models"][0]["ranks"]["m"]["extent"] = json!(1_u64 << 41);
    json["models"][0]["blocks"][1]["repeat"] = json!(u64::MAX);
    assert_eq!(codes(&json), ["rank-extent", "repeat"]);
}

#[test]
fn the_largest_number_of_experts_is_tabulated_within_seconds() {
    let begun = Instant::now();
    for (law, placement) in [
        (Law::Uniform, Placement::Contiguous),
        (Law::Zipf(0.8), Placement::Replicated(4096)),
        (Law::PowerLaw(1.2), Placement::Balanced),
    ] {
        let table = known(&law, Choice { experts: 65_536, active: 8, gpus: 1024 }, placement);
        assert!(table.busy_tokens(&energylens_core::routing::table::places(&[4096.0]))[0] >= 32.0);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn laws_beyond_their_range_are_refused() {
    let bad = [
        Law::Dirichlet(0.0),
        Law::Dirichlet(-1e300),
        Law::Zipf(-1.0),
        Law::Zipf(1e300),
        Law::PowerLaw(11.0),
        Law::Counts(vec![]),
        Law::Counts(vec![vec![0.0; 8]]),
        Law::Counts(vec![vec![-1.0; 8]]),
    ];
    for law in bad {
        assert!(law.fault(8, 2).is_some(), "{law:?}");
    }
    for law in
        [Law::Uniform, Law::Dirichlet(0.35), Law::Zipf(0.0), Law::PowerLaw(10.0), Law::Counts(vec![vec![1.0; 8]])]
    {
        assert_eq!(law.fault(8, 2), None);
    }
}

/// Numbers of a profile that only their own sizes limit, as places in the plan.
const NUMBERS: [&str; 30] = [
    "/memory/capacity_bytes",
    "/memory/bandwidth_bytes_per_s",
    "/memory/reserve_bytes",
    "/compute/peak_flops/bf16",
    "/compute/peak_flops/vector",
    "/power/active_w",
    "/power/communication_w",
    "/power/sequence_j",
    "/power/tdp_w",
    "/link/net_bandwidth_bytes_per_s",
    "/link/net_alpha_s",
    "/link/sms_to_saturate",
    "/link/sms_sharpness",
    "/link/contention/communication",
    "/host/host_s",
    "/host/sequence_s",
    "/uncertainty/compute",
    "/uncertainty/common",
    "/kernels/gemm/bf16/t0_s",
    "/kernels/gemm/bf16/compute_efficiency",
    "/kernels/gemm/bf16/depth_0",
    "/kernels/grouped_gemm/bf16/padding_rows",
    "/kernels/attention_prefill/bf16/head_dim_power",
    "/kernels/attention_prefill/bf16/pad_rows",
    "/kernels/elementwise/memory_efficiency",
    "/energy/flop_j/bf16",
    "/energy/on_chip_j_per_byte",
    "/energy/hbm_weight_j_per_byte",
    "/energy/link_j_per_byte",
    "/collectives/all_reduce/0/by_gpus/8/bandwidth_bytes_per_s",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn extreme_coefficients_never_give_a_feasible_row_beyond_numbers(
        changes in prop::collection::vec((0..NUMBERS.len(), -308..309_i32, any::<bool>()), 1..6),
        point in (prop::sample::select(vec![1_u32, 2, 4]), 1..3_u32, 0..2_u16, 0..3_u16, 0..9_i32, 0..12_i32),
    ) {
        let mut json = common::plan_json();
        for (at, exponent, zero) in &changes {
            let value = if *zero && exponent % 7 == 0 { 0.0 } else { format!("1e{exponent}").parse().unwrap() };
            *json["gpus"][0].pointer_mut(NUMBERS[*at]).unwrap() = json!(value);
        }
        let Ok(plan) = Plan::from_json(&json.to_string()) else { return Ok(()) };
        let (tp, pp, lock, cap, batch, length) = point;
        let running = Running { sm_clock_mhz: 1200 * lock, power_cap_w: 250 * cap, ..Running::default() };
        let (batch, prompt_tokens, output_tokens) = (10_f64.powi(batch), 10_f64.powi(length), 10_f64.powi(11 - length));
        let row = Point { tp, pp, running, batch, prompt_tokens, output_tokens, ..common::point() };
        let table = plan.evaluate([row].as_slice(), Columns::ALL, 1).unwrap();
        if table.reasons[0] == Reason::Ok as u8 {
            for values in &table.columns {
                prop_assert!(values[0].is_finite(), "{changes:?} {row:?} {:?}", table.columns);
            }
        }
        // Both schedules count the same points as beyond numbers, whatever bounds settle.
        let space = space(&plan, &json!({
            "tp": [tp], "pp": [pp], "sm_clock_mhz": [1200 * lock], "power_cap_w": [250 * cap],
            "batch": [1, 8], "prompt_tokens": (1..100).map(|i| 37 * i).collect::<Vec<_>>(), "output_tokens": [1, 2, 700]
        }));
        let wanted = Wanted { objectives: vec![(3, 1.0), (0, 1.0)], bounds: vec![(0, 0.0, 1e3)], ..Wanted::default() };
        let counted = [Schedule::Direct, Schedule::Best].map(|schedule| {
            let mut reduction = Reduction::new(wanted.clone());
            reduction.walk(&plan, &space, 0..space.size(), schedule, 1);
            (reduction.by_reason, reduction.outside, reduction.front.members())
        });
        prop_assert_eq!(&counted[0], &counted[1]);
    }
}
