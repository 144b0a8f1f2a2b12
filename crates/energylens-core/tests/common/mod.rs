//! A small plan for tests: a routed model with attention, and one GPU.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests that each use a part")]

use energylens_core::engine::{Plan, Point};
use energylens_core::input::run_options::Running;
use serde_json::{Value, json};

/// A plan with two blocks, experts and a windowed mask.
pub fn plan_json() -> Value {
    json!({
        "format": 1,
        "settings": {"max_batched_tokens": 8192.0},
        "models": [model()],
        "gpus": [gpu()],
    })
}

pub fn plan() -> Plan {
    Plan::from_json(&plan_json().to_string()).unwrap()
}

pub fn point() -> Point {
    Point {
        model: 0,
        gpu: 0,
        weights: None,
        cache: None,
        tp: 1,
        pp: 1,
        dp: 1,
        ep: 1,
        cp: 1,
        running: Running::default(),
        batch: 8.0,
        prompt_tokens: 512.0,
        output_tokens: 128.0,
    }
}

fn kernel(name: &str, equations: &[&str]) -> Value {
    json!({"name": name, "equations": equations, "phase": null})
}

fn model() -> Value {
    json!({
        "name": "small",
        "ranks": {
            "d": {"extent": 256, "active": null}, "g": {"extent": 4, "active": null}, "r": {"extent": 2, "active": null},
            "e": {"extent": 64, "active": null}, "x": {"extent": 8, "active": 2}, "m": {"extent": 128, "active": null},
            "v": {"extent": 1024, "active": null}
        },
        "blocks": [
            {"name": "start", "repeat": 1, "kernels": [kernel("embed", &["X[b,s,d] = embed(Tokens[b,s], We[v,d])"])]},
            {"name": "layer", "repeat": 6, "kernels": [
                kernel("qkv", &[
                    "Q[b,s,g,r,e] = X[b,s,d] * Wq[d,g,r,e]",
                    "K[b,s,g,e] = X[b,s,d] * Wk[d,g,e]",
                    "V[b,s,g,e] = X[b,s,d] * Wv[d,g,e]",
                ]),
                kernel("attention", &[
                    "S[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]",
                    "P[b,g,r,s,t] = softmax(S[b,g,r,s,t])",
                    "O[b,s,g,r,e] = P[b,g,r,s,t] * V[b,t,g,e]",
                ]),
                kernel("out", &["Y[b,s,d] = O[b,s,g,r,e] * Wo[g,r,e,d]"]),
                kernel("norm", &["X[b,s,d] = add(X[b,s,d], Y[b,s,d])", "N[b,s,d] = norm(X[b,s,d], Wn[d])"]),
                kernel("router", &["R[b,s,x] = N[b,s,d] * Wr[d,x]"]),
                kernel("gate", &["A[b,s,x] = topk(R[b,s,x])"]),
                kernel("experts", &[
                    "U[b,s,x,m] = N[b,s,d] * Wu[x,d,m]",
                    "D[b,s,x,d] = U[b,s,x,m] * Wd[x,m,d]",
                    "M[b,s,d] = A[b,s,x] * D[b,s,x,d]",
                ]),
                kernel("add", &["X[b,s,d] = add(X[b,s,d], M[b,s,d])"]),
            ]},
            {"name": "end", "repeat": 1, "kernels": [kernel("head", &["L[b,s,v] = X[b,s,d] * Wh[d,v]"])]},
        ],
        "cache": ["K", "V"], "tied": [], "overlap": {},
        "mask": {"S": {"window": 4096}},
        "dtypes": {"weights": "bf16", "activations": "bf16", "cache": "bf16"},
        "shard": [["b", "dp"], ["g", "tp"], ["r", "tp"], ["v", "tp"], ["x", "ep"], ["m", "moe_tp"], ["repeat", "pp"]],
    })
}

fn gpu() -> Value {
    let set = |t0: f64, sharpness: u32| {
        json!({"t0_s": t0, "compute_efficiency": 0.75, "memory_efficiency": 0.85, "root_s_per_sqrt_byte": 1e-10, "sharpness": sharpness, "padding_rows": 8.0, "depth_0": 100.0, "split_s": 2e-6,
        "quantise_bytes": 1.0, "expert_s": 5e-8, "routed_bytes": 2.0, "sequence_head_s": 1e-8, "head_dim_power": 0.3,
        "length_factor": 0.5, "wave_depth": 30.0, "pad_rows": 64.0,
        "tiles": [[16, 64, 0.6], [64, 64, 0.9], [128, 128, 1.0]]})
    };
    let link = json!([{"name": "ring", "max_bytes": null, "by_gpus": {
        "2": {"alpha_s": 6e-6, "root_s_per_sqrt_byte": 4e-9, "bandwidth_bytes_per_s": 3e11},
        "8": {"alpha_s": 1.2e-5, "root_s_per_sqrt_byte": 8e-9, "bandwidth_bytes_per_s": 4.5e11}
    }}]);
    json!({
        "name": "test-gpu",
        "memory": {"capacity_bytes": 8e10, "bandwidth_bytes_per_s": 3e12, "reserve_bytes": 2e9},
        "compute": {"sms": 132, "peak_flops": {"bf16": 1e15, "fp8": 2e15, "vector": 6e13}},
        "power": {"tdp_w": 700.0, "static_w": 120.0, "active_w": 40.0, "communication_w": 15.0, "sequence_j": 2e-3},
        "link": {"gpus_per_node": 8, "net_bandwidth_bytes_per_s": 5e10, "net_alpha_s": 1e-5, "sms_to_saturate": 16.0,
            "sms_sharpness": 1.5, "contention": {"compute": 0.1, "communication": 0.6}},
        "clock": {"max_mhz": 1980.0, "voltage_mv": [[900.0, 700.0], [1400.0, 750.0], [1980.0, 1000.0]],
            "idle_w": [[600.0, 80.0], [1980.0, 120.0]]},
        "host": {"host_s": 1e-3, "sequence_s": 1e-5},
        "uncertainty": {
            "compute": 0.1, "hbm_weights": 0.1, "hbm_kv": 0.2, "hbm_activations": 0.2, "communication": 0.3, "static": 0.1,
            "waiting": 0.4, "common": 0.05, "routed": 0.1, "narrow": 0.1
        },
        "range": {"batch": 512.0, "context_tokens": 32768.0, "gpus": 8.0},
        "kernels": {
            "gemm": {"bf16": set(3e-6, 4), "fp8": set(1e-5, 2)},
            "grouped_gemm": {"bf16": set(3e-5, 1), "fp8": set(3e-5, 1)},
            "attention_prefill": {"bf16": set(1e-5, 2)}, "attention_decode": {"bf16": set(1e-5, 2)}, "elementwise": set(2e-6, 4)
        },
        "energy": {
            "flop_j": {"bf16": 7e-13, "fp8": 4e-13, "vector": 1.4e-12}, "on_chip_j_per_byte": 1.2e-11,
            "hbm_weight_j_per_byte": 1.07e-10, "hbm_kv_j_per_byte": 3e-10, "hbm_activation_j_per_byte": 1.07e-10,
            "link_j_per_byte": 2.7e-10
        },
        "collectives": {
            "all_reduce": link, "all_gather": link, "reduce_scatter": link, "all_to_all": link, "send_recv": link
        }
    })
}
