//! One piece of work by name, to be counted instruction by instruction: see `benchmarks/instructions.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "benchmarks may")]

use std::hint::black_box;

use energylens_core::batch::serve::Columns;
use energylens_core::engine::space::Space;
use energylens_core::engine::{Plan, Point, Schedule};
use energylens_core::reduce::{Reduction, Wanted};
use energylens_core::search::Search;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (Some(plan), Some(work)) = (arguments.next(), arguments.next()) else { return };
    let text = std::fs::read_to_string(plan).expect("a plan: python benchmarks/plan.py");
    let plan = Plan::from_json(&text).unwrap();
    let list = |low: u32, high: u32, step: usize| format!("{:?}", (low..=high).step_by(step).collect::<Vec<_>>());
    let json = format!(
        r#"{{"model":[1],"gpu":[1],"weight_dtype":[null],"kv_dtype":[null],"tp":[4],"pp":[1],"dp":[1],"ep":[4],
        "batch":{},"prompt_tokens":{},"output_tokens":{}}}"#,
        list(1, 4, 1),
        list(64, 4096, 64),
        list(64, 4096, 64)
    );
    let space = Space::from_json(&json, plan.graphs.len(), plan.profiles.len()).unwrap();
    let front = Wanted { objectives: vec![(4, 1.0), (0, 1.0)], ..Wanted::default() };
    let reduce = |schedule| {
        let mut kept = Reduction::new(front.clone());
        let parts = plan.walk(&space, 0..space.size(), front.columns(), schedule, 1, || kept.empty_sibling());
        parts.into_iter().for_each(|part| kept.merge(part));
        black_box(kept);
    };
    // The table of what tokens load on GPUs is made once and kept: here, for all work but `table`.
    drop(black_box(plan.mapping(&space.point(0))));
    match work.as_str() {
        "plan" => {}
        "table" => {
            let other = json.replace(r#""tp":[4]"#, r#""tp":[2]"#).replace(r#""ep":[4]"#, r#""ep":[2]"#);
            drop(black_box(plan.mapping(&Space::from_json(&other, 2, 2).unwrap().point(0))));
        }
        "mapping" => {
            let other = json.replace(r#""tp":[4]"#, r#""tp":[8]"#);
            drop(black_box(plan.mapping(&Space::from_json(&other, 2, 2).unwrap().point(0))));
        }
        "direct" => reduce(Schedule::Direct),
        "factored" => reduce(Schedule::Best),
        "random" => {
            let index = |i: u64| i * 7919 % space.size();
            let points: Vec<Point> = (0..4096).map(|i| space.point(index(i))).collect();
            black_box(plan.evaluate(points.as_slice(), Columns::first(14), 1).unwrap());
        }
        "search" => {
            let mut search = Search::new(space.clone(), front.clone(), 500, 1);
            (0..10).for_each(|_| search.step(&plan, 1).unwrap());
            black_box(search.points());
        }
        other => panic!("no work named {other}"),
    }
}
