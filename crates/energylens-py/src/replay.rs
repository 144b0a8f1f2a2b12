//! Requests replayed through continuous batching.

use energylens_core::serving::prefix;
use energylens_core::serving::replay::{Engine, Requests, Steps, replay as run};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{detached, fits};
use crate::errors::{CoreError, fault};

/// Most tokens of a cache.
const MOST_TOKENS: u64 = 1 << 53;

/// How an engine batches, by the names of `Engine`.
fn read_engine(told: &Bound<'_, PyDict>) -> PyResult<Engine> {
    fn field<'py, T: FromPyObjectOwned<'py>>(told: &Bound<'py, PyDict>, name: &str) -> PyResult<T> {
        let value = told.get_item(name)?.ok_or_else(|| fault("engine", format!("`{name}` is missing")))?;
        fits(&value).map_err(|e| fault("engine", format!("`{name}`: {e}")))
    }
    let engine = Engine {
        most_running: field(told, "most_running")?,
        token_budget: field(told, "token_budget")?,
        cache_tokens: field(told, "cache_tokens")?,
        chunked: field(told, "chunked")?,
        reads: field(told, "reads")?,
        block_tokens: field(told, "block_tokens")?,
        found_share: field(told, "found_share")?,
        lanes: field(told, "lanes")?,
        idle_w: field(told, "idle_w")?,
        warm_s: field(told, "warm_s")?,
    };
    let share = (0.0..=1.0).contains(&engine.found_share);
    let numbers = engine.idle_w.is_finite() && engine.warm_s.is_finite();
    if !numbers || engine.block_tokens > u64::from(u32::MAX) || engine.cache_tokens > MOST_TOKENS {
        return Err(fault(
            "engine",
            format!("watts and seconds are finite, a block has at most {} tokens, a cache {MOST_TOKENS}", u32::MAX),
        ));
    }
    if engine.most_running == 0 || engine.token_budget == 0 || !share || !(1..=1 << 20).contains(&engine.lanes) {
        return Err(fault(
            "engine",
            "an engine runs one request or more, of a token or more a step, on a lane or more",
        ));
    }
    Ok(engine)
}

/// Blocks of each request, of a list of all and where each one's begin.
fn parts<'a>(blocks: &'a [u32], starts: &[usize]) -> PyResult<Vec<&'a [u32]>> {
    if blocks.iter().any(|id| *id as usize >= blocks.len()) {
        return Err(fault("requests", "blocks are numbered from 0, as many as there are"));
    }
    let of = |pair: &[usize]| blocks.get(pair[0]..pair[1].max(pair[0]));
    let parts: Option<Vec<&[u32]>> = starts.windows(2).map(of).collect();
    parts.ok_or_else(|| fault("requests", "blocks of a request begin where those before it end"))
}

fn different(blocks: &[u32]) -> usize {
    blocks.iter().max().map_or(0, |most| *most as usize + 1)
}

/// Replays requests. `steps` are lists and numbers by the names of `energylens.serving.step_table`; `blocks` of all requests, those
/// of request i from `starts[i]` to `starts[i + 1]`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "columns")]
pub fn replay<'py>(
    py: Python<'py>,
    steps: &Bound<'py, PyDict>,
    engine: &Bound<'py, PyDict>,
    arrival_s: numpy::PyReadonlyArray1<'py, f64>,
    prompts: numpy::PyReadonlyArray1<'py, u32>,
    outputs: numpy::PyReadonlyArray1<'py, u32>,
    #[pyo3(from_py_with = fits)] blocks: Vec<u32>,
    #[pyo3(from_py_with = fits)] starts: Vec<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let list = |name: &str| -> PyResult<Vec<f64>> {
        steps.get_item(name)?.ok_or_else(|| fault("steps", "a list is missing"))?.extract()
    };
    let number = |name: &str| -> PyResult<f64> {
        steps.get_item(name)?.ok_or_else(|| fault("steps", "a number is missing"))?.extract()
    };
    let steps = Steps {
        tokens: list("tokens")?,
        base_s: list("base_s")?,
        base_j: list("base_j")?,
        sequences: list("sequences")?,
        contexts: list("contexts")?,
        decode_s: list("decode_s")?,
        decode_j: list("decode_j")?,
        sample_s: number("sample_s")?,
        sample_j: number("sample_j")?,
        lengths: list("lengths")?,
        attend_s: list("attend_s")?,
        attend_j: list("attend_j")?,
    };
    let rising = |list: &[f64]| list.windows(2).all(|pair| pair[0] < pair[1]);
    let lines = [&steps.tokens, &steps.sequences, &steps.contexts, &steps.lengths];
    let cells = steps.sequences.len().saturating_mul(steps.contexts.len());
    let all = [
        &steps.base_s,
        &steps.base_j,
        &steps.decode_s,
        &steps.decode_j,
        &steps.attend_s,
        &steps.attend_j,
        &steps.tokens,
        &steps.sequences,
        &steps.contexts,
        &steps.lengths,
    ];
    let finite = |value: &f64| value.is_finite();
    if !all.iter().all(|list| list.iter().all(finite)) || ![steps.sample_s, steps.sample_j].iter().all(finite) {
        return Err(fault("steps", "seconds and joules of a grid are finite"));
    }
    let even = |count: usize, lists: [&Vec<f64>; 2]| lists.iter().all(|list| list.len() == count);
    let whole = even(steps.tokens.len(), [&steps.base_s, &steps.base_j])
        && even(cells, [&steps.decode_s, &steps.decode_j])
        && even(steps.lengths.len(), [&steps.attend_s, &steps.attend_j]);
    if steps.tokens.is_empty() || cells == 0 || !whole || !lines.iter().all(|list| rising(list)) {
        return Err(fault("steps", "a grid has rising lines and a value at each crossing"));
    }
    let (arrival_s, input, output) = (arrival_s.as_slice()?, prompts.as_slice()?, outputs.as_slice()?);
    let count = arrival_s.len();
    if !arrival_s.iter().all(|t| t.is_finite()) || arrival_s.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(fault("requests", "arrivals are finite and in order"));
    }
    if input.len() != count || output.len() != count || output.contains(&0) || input.contains(&0) {
        return Err(fault("requests", "requests have an arrival, an input and an output of at least 1 each"));
    }
    let told_blocks = parts(&blocks, &starts)?;
    if !told_blocks.is_empty() && told_blocks.len() != count {
        return Err(fault("requests", "either all requests have blocks or none"));
    }
    let engine = read_engine(engine)?;
    let requests = Requests { arrival_s, input, output, blocks: &told_blocks };
    let told = detached(py, || run(&steps, engine, requests))?.map_err(CoreError::from)?;
    let found = PyDict::new(py);
    found.set_item("first_s", numpy::PyArray1::from_vec(py, told.first_s))?;
    found.set_item("done_s", numpy::PyArray1::from_vec(py, told.done_s))?;
    for (name, value) in [
        ("span_s", told.span_s),
        ("busy_s", told.busy_s),
        ("energy_j", told.joules),
        ("energy_idle_j", told.idle_j),
        ("mean_held_tokens", told.mean_held),
        ("mean_running", told.mean_running),
        ("window_s", told.window.seconds),
        ("window_j", told.window.joules),
        ("window_idle_j", told.window.idle_j),
        ("window_made", told.window.made as f64),
        ("window_busy_s", told.window.busy_s),
        ("window_ran_s", told.window.ran_s),
    ] {
        found.set_item(name, value)?;
    }
    for (name, value) in
        [("steps", told.steps), ("found_tokens", told.found), ("preempted", told.preempted), ("refused", told.refused)]
    {
        found.set_item(name, value)?;
    }
    Ok(found)
}

/// Tokens of prompts that caches of so many tokens would find, the least recently used block given up first.
#[pyfunction]
pub fn prefix_found(
    py: Python<'_>,
    #[pyo3(from_py_with = fits)] blocks: Vec<u32>,
    #[pyo3(from_py_with = fits)] starts: Vec<usize>,
    #[pyo3(from_py_with = fits)] block_tokens: u64,
    #[pyo3(from_py_with = fits)] capacities: Vec<u64>,
) -> PyResult<Vec<u64>> {
    let parts = parts(&blocks, &starts)?;
    let found = detached(py, || prefix::found(&parts, different(&blocks), block_tokens, &capacities))?;
    found.map_err(|problem| CoreError::from(problem).into())
}
