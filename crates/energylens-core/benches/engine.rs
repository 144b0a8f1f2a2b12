//! Points a second of each schedule and reduction, and how long a mapping takes to be made.
//!
//! The plan comes from `benchmarks/plan.py`, which `make bench` runs first.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "benchmarks may")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use energylens_core::batch::serve::Columns;
use energylens_core::engine::space::Space;
use energylens_core::engine::{Plan, Point, Schedule};
use energylens_core::input::run_options::Running;
use energylens_core::reduce::groups::Grouping;
use energylens_core::reduce::{Reduction, Wanted};

const LATENCY: usize = 0;
const ENERGY_PER_TOKEN: usize = 4;
const PER_GPU: usize = 10;
const CASES: [(&str, u32, u32, &str, &str); 2] =
    [("llama-3.1-70b", 0, 0, "1,2,4,8", "1"), ("qwen3-235b-a22b", 1, 1, "4,8", "1,4")];

fn text() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench-plan.json");
    std::fs::read_to_string(path).expect("write the plan first: python benchmarks/plan.py, or make bench")
}

fn steps(low: u32, high: u32, step: usize) -> String {
    (low..=high).step_by(step).map(|v| v.to_string()).collect::<Vec<_>>().join(",")
}

fn space(plan: &Plan, case: usize, batches: u32, lengths: u32) -> Space {
    let (_, model, gpu, tp, ep) = CASES[case];
    let json = format!(
        r#"{{"model":[{model}],"gpu":[{gpu}],"weight_dtype":[null],"kv_dtype":[null],"tp":[{tp}],"pp":[1,2],"dp":[1],"ep":[{ep}],
        "batch":[{}],"prompt_tokens":[{}],"output_tokens":[{}]}}"#,
        steps(1, batches, 1),
        steps(16, lengths, 16),
        steps(16, lengths, 16),
    );
    Space::from_json(&json, plan.graphs.len(), plan.profiles.len()).unwrap()
}

fn random_points(case: usize, count: usize) -> Vec<Point> {
    let (_, model, gpu, tp, ep) = CASES[case];
    let values = |text: &str| text.split(',').map(|v| v.parse().unwrap()).collect::<Vec<u32>>();
    let (tps, eps) = (values(tp), values(ep));
    let mut state = 1_u64;
    let mut next = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    let point = |_| Point {
        model,
        gpu,
        weights: None,
        cache: None,
        tp: tps[next(tps.len())],
        pp: 1 + next(2) as u32,
        dp: 1,
        ep: eps[next(eps.len())],
        cp: 1,
        running: Running::default(),
        batch: 1.0 + next(256) as f64,
        prompt_tokens: 1.0 + next(8192) as f64,
        output_tokens: 1.0 + next(2048) as f64,
    };
    (0..count).map(point).collect()
}

fn reduce(plan: &Plan, space: &Space, wanted: &Wanted, schedule: Schedule, count: u64) -> Reduction {
    let mut kept = Reduction::new(wanted.clone());
    let range = 0..space.size().min(count);
    let parts = plan.walk(space, range, wanted.columns(), schedule, 1, || kept.empty_sibling());
    parts.into_iter().for_each(|part| kept.merge(part));
    kept
}

fn engine(criterion: &mut Criterion) {
    let text = text();
    let plan = Plan::from_json(&text).unwrap();
    let front = Wanted { objectives: vec![(ENERGY_PER_TOKEN, 1.0), (LATENCY, 1.0)], ..Wanted::default() };

    let mut group = criterion.benchmark_group("random points, one thread");
    for (case, (name, ..)) in CASES.iter().enumerate() {
        let points = random_points(case, 1 << 18);
        group.throughput(Throughput::Elements(points.len() as u64)).sample_size(10);
        for (columns, wanted) in
            [("two columns", [LATENCY, ENERGY_PER_TOKEN].into_iter().collect()), ("all", Columns::ALL)]
        {
            group.bench_function(BenchmarkId::new(*name, columns), |b| {
                b.iter(|| black_box(plan.evaluate(points.as_slice(), wanted, 1).unwrap()));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("front of a product space, one thread");
    for (case, (name, ..)) in CASES.iter().enumerate() {
        let space = space(&plan, case, 64, 8192);
        for (schedule, label, count) in [(Schedule::Direct, "direct", 1 << 20), (Schedule::Best, "factored", 1 << 26)] {
            let count = space.size().min(count);
            group.throughput(Throughput::Elements(count)).sample_size(10);
            group.bench_function(BenchmarkId::new(*name, label), |b| {
                b.iter(|| black_box(reduce(&plan, &space, &front, schedule, count)));
            });
        }
    }
    group.finish();

    let space = space(&plan, 1, 16, 4096);
    let three = Wanted { objectives: vec![(ENERGY_PER_TOKEN, 1.0), (LATENCY, 1.0), (PER_GPU, -1.0)], ..front.clone() };
    let mut group = criterion.benchmark_group("reductions, one thread");
    group.throughput(Throughput::Elements(space.size())).sample_size(10);
    for (name, wanted) in [
        ("front, two objectives", front.clone()),
        ("front, three objectives", three.clone()),
        ("thinned front, three objectives", Wanted { resolution: Some(6), ..three }),
        ("top 100", Wanted { top: 100, ..front.clone() }),
        ("best per lengths", Wanted { groups: Grouping::new(&space, &[19, 20]), ..front.clone() }),
        ("distribution", Wanted { distributions: vec![LATENCY], ..front.clone() }),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(reduce(&plan, &space, &wanted, Schedule::Best, u64::MAX)));
        });
    }
    group.finish();

    let point = random_points(0, 1);
    criterion.bench_function("one point", |b| {
        b.iter(|| black_box(plan.evaluate(point.as_slice(), Columns::first(14), 1).unwrap()))
    });
    criterion.bench_function("plan and one mapping", |b| {
        b.iter(|| {
            let plan = Plan::from_json(&text).unwrap();
            black_box(plan.mapping(&point[0]));
        });
    });
}

criterion_group!(benches, engine);
criterion_main!(benches);
