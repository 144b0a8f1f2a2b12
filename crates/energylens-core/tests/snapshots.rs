//! What is derived from a model's text, and the messages of its faults, held against snapshots.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use energylens_core::engine::Plan;
use energylens_core::explain;
use serde_json::{Value, json};

#[test]
fn a_routed_model_explained() {
    let plan = common::plan();
    let mut text = String::new();
    for kernel in explain::model(&plan.graphs[0]) {
        text += &format!("{}.{} x{} [{}]\n", kernel.block, kernel.kernel, kernel.repeat, kernel.class);
        for line in &kernel.lines {
            text += &format!(
                "  {}\n    {} {} | {} = {}\n",
                line.equation, line.work, line.roles, line.flops, line.flops_value
            );
        }
        for (name, list) in [
            ("reads", &kernel.reads),
            ("writes", &kernel.writes),
            ("inside", &kernel.inside),
            ("then", &kernel.collectives),
        ] {
            if !list.is_empty() {
                text += &format!("  {name}: {}\n", list.join("; "));
            }
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn kernels_of_a_point_over_two_data_parallel_ranks() {
    let plan = common::plan();
    let point = energylens_core::engine::Point { tp: 2, dp: 2, ep: 4, ..common::point() };
    let stories = explain::point(&plan, &point).unwrap();
    let text: Vec<String> = stories
        .iter()
        .filter(|s| s.block == "layer")
        .map(|s| {
            format!("{} {} {:.3e} s + {:.3e} s {:?}", s.phase, s.kernel, s.kernel_s, s.communication_s, s.collectives)
        })
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

fn faults(edit: impl Fn(&mut Value)) -> String {
    let mut plan = common::plan_json();
    edit(&mut plan);
    let problems = Plan::from_json(&plan.to_string()).unwrap_err();
    let lines: Vec<String> = problems.0.iter().map(|p| serde_json::to_string(p).unwrap()).collect();
    lines.join("\n")
}

#[test]
fn faults_have_a_code_a_path_and_a_hint() {
    let kernel = |index: usize| format!("/models/0/blocks/1/kernels/{index}/equations");
    let set = |pointer: &str, value: Value| {
        let pointer = pointer.to_owned();
        move |plan: &mut Value| *plan.pointer_mut(&pointer).unwrap() = value.clone()
    };
    let text = [
        faults(set("/format", json!(2))),
        faults(set("/gpus/0/power/tdp_w", json!("much"))),
        faults(set("/gpus/0/power/static_w", json!(700.0))),
        faults(set("/gpus/0/kernels/gemm/bf16/sharpness", json!(0))),
        faults(set("/gpus/0/kernels/gemm/bf16/tiles", json!([[48, 64, 1.0]]))),
        faults(set("/gpus/0/compute/sms", json!(0))),
        faults(set(&kernel(2), json!(["Y[b,s,d] = O[b,s,g,r,e] * Wo[g,r,e,q]", "Z[b,s = Y[b,s,d]"]))),
        faults(set(&kernel(2), json!(["Y[b,s,d] = O[b,s,g,e] * Wo[g,e,d]"]))),
        faults(set(&kernel(2), json!(["Y[b,s,d] = Oo[b,s,g,r,e] * Wo[g,r,e,d]"]))),
        faults(set(&kernel(7), json!(["X[b,s,d] = add(M[b,s,d])", "T[b,s] = norm(X[b,s,d])"]))),
        faults(set("/models/0/cache", json!(["K"]))),
        faults(set("/models/0/ranks/x", json!({"extent": 8, "active": 9}))),
        faults(set("/models/0/ranks/m", json!({"extent": 8, "active": 2}))),
        faults(set("/models/0/shard", json!([["q", "tp"], ["s", "tp"], ["x", "tp"], ["b", "ep"], ["repeat", "tp"]]))),
        faults(set("/models/0/tied", json!(["Wz"]))),
        faults(set("/models/0/overlap", json!({"attn": {"stages": 0, "sms": 4}}))),
        faults(set("/models/0/dtypes", json!({"weights": "bf61", "Wh": "bf16", "Wq9": "fp8"}))),
    ];
    insta::assert_snapshot!(text.join("\n\n"));
}
