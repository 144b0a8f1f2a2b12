//! Requests replayed through continuous batching.

use energylens_core::serving::engine::{Engine, Requests};
use energylens_core::serving::outcome::Replayed;
use energylens_core::serving::step_table::StepTable;
use energylens_core::serving::{prefix, replay as scheduler};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{detached, fits};
use crate::errors::{CoreError, fault};

/// Most tokens of a cache.
const MOST_TOKENS: u64 = 1 << 53;

/// Most lanes of an engine, far beyond any.
const MOST_LANES: usize = 1 << 20;

/// How an engine batches, by the names of `Engine`.
fn read_engine(fields: &Bound<'_, PyDict>) -> PyResult<Engine> {
    fn field<'py, T: FromPyObjectOwned<'py>>(fields: &Bound<'py, PyDict>, name: &str) -> PyResult<T> {
        let value = fields.get_item(name)?.ok_or_else(|| fault("engine", format!("`{name}` is missing")))?;
        fits(&value).map_err(|e| fault("engine", format!("`{name}`: {e}")))
    }
    let engine = Engine {
        most_running: field(fields, "most_running")?,
        token_budget: field(fields, "token_budget")?,
        cache_tokens: field(fields, "cache_tokens")?,
        chunked: field(fields, "chunked")?,
        reads: field(fields, "reads")?,
        block_tokens: field(fields, "block_tokens")?,
        prefix_hit_share: field(fields, "prefix_hit_share")?,
        lanes: field(fields, "lanes")?,
        idle_w: field(fields, "idle_w")?,
        warm_s: field(fields, "warm_s")?,
    };
    let share = (0.0..=1.0).contains(&engine.prefix_hit_share);
    let numbers = engine.idle_w.is_finite() && engine.warm_s.is_finite();
    if !numbers || engine.block_tokens > u64::from(u32::MAX) || engine.cache_tokens > MOST_TOKENS {
        return Err(fault(
            "engine",
            format!("watts and seconds are finite, a block has at most {} tokens, a cache {MOST_TOKENS}", u32::MAX),
        ));
    }
    if engine.most_running == 0 || engine.token_budget == 0 || !share || !(1..=MOST_LANES).contains(&engine.lanes) {
        return Err(fault(
            "engine",
            "an engine runs one request or more, of a token or more a step, on a lane or more",
        ));
    }
    Ok(engine)
}

/// Prefix blocks of each request, of a list of all and where those of each begin.
fn blocks_by_request<'a>(blocks: &'a [u32], starts: &[usize]) -> PyResult<Vec<&'a [u32]>> {
    if blocks.iter().any(|id| *id as usize >= blocks.len()) {
        return Err(fault("requests", "blocks are numbered from 0, as many as there are"));
    }
    let slice = |pair: &[usize]| blocks.get(pair[0]..pair[1].max(pair[0]));
    let slices: Option<Vec<&[u32]>> = starts.windows(2).map(slice).collect();
    slices.ok_or_else(|| fault("requests", "blocks of a request begin where those before it end"))
}

/// Seconds and joules of steps, by the names of [`StepTable`].
fn read_steps(fields: &Bound<'_, PyDict>) -> PyResult<StepTable> {
    fn field<'py, T: FromPyObjectOwned<'py>>(fields: &Bound<'py, PyDict>, name: &str) -> PyResult<T> {
        let value = fields.get_item(name)?.ok_or_else(|| fault("steps", format!("`{name}` is missing")))?;
        value.extract().map_err(Into::into)
    }
    let steps = StepTable {
        tokens: field(fields, "tokens")?,
        base_s: field(fields, "base_s")?,
        base_j: field(fields, "base_j")?,
        sequences: field(fields, "sequences")?,
        contexts: field(fields, "contexts")?,
        decode_s: field(fields, "decode_s")?,
        decode_j: field(fields, "decode_j")?,
        sample_s: field(fields, "sample_s")?,
        sample_j: field(fields, "sample_j")?,
        lengths: field(fields, "lengths")?,
        attend_s: field(fields, "attend_s")?,
        attend_j: field(fields, "attend_j")?,
    };
    let axes = [&steps.tokens, &steps.sequences, &steps.contexts, &steps.lengths];
    let cells = steps.sequences.len().saturating_mul(steps.contexts.len());
    let values = [
        (steps.tokens.len(), [&steps.base_s, &steps.base_j]),
        (cells, [&steps.decode_s, &steps.decode_j]),
        (steps.lengths.len(), [&steps.attend_s, &steps.attend_j]),
    ];
    let lists = axes.into_iter().chain(values.into_iter().flat_map(|(_, lists)| lists));
    if !lists.flatten().chain([&steps.sample_s, &steps.sample_j]).all(|value| value.is_finite()) {
        return Err(fault("steps", "seconds and joules of a grid are finite"));
    }
    let complete = values.into_iter().all(|(count, lists)| lists.into_iter().all(|list| list.len() == count));
    let rising = axes.into_iter().all(|axis| axis.windows(2).all(|pair| pair[0] < pair[1]));
    if steps.tokens.is_empty() || cells == 0 || !complete || !rising {
        return Err(fault("steps", "a grid has rising lines and a value at each crossing"));
    }
    Ok(steps)
}

/// Checks arrivals and lengths of requests.
fn check_requests(requests: &Requests) -> PyResult<()> {
    let Requests { arrival_s, prompt_tokens, output_tokens, blocks } = *requests;
    if !arrival_s.iter().all(|t| t.is_finite()) || arrival_s.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(fault("requests", "arrivals are finite and in order"));
    }
    let lengths = [prompt_tokens, output_tokens];
    if lengths.iter().any(|tokens| tokens.len() != arrival_s.len() || tokens.contains(&0)) {
        return Err(fault("requests", "requests have an arrival, prompt tokens and output tokens of at least 1 each"));
    }
    if !blocks.is_empty() && blocks.len() != arrival_s.len() {
        return Err(fault("requests", "either all requests have blocks or none"));
    }
    Ok(())
}

/// Replays requests. `steps` are lists and numbers by the names of `energylens.serving.step_table`, `engine` those of an engine;
/// `blocks` are those of all requests, those of request i from `starts[i]` to `starts[i + 1]`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "an argument for each column of the requests")]
pub fn replay<'py>(
    py: Python<'py>,
    steps: &Bound<'py, PyDict>,
    engine: &Bound<'py, PyDict>,
    arrival_s: PyReadonlyArray1<'py, f64>,
    prompt_tokens: PyReadonlyArray1<'py, u32>,
    output_tokens: PyReadonlyArray1<'py, u32>,
    #[pyo3(from_py_with = fits)] blocks: Vec<u32>,
    #[pyo3(from_py_with = fits)] starts: Vec<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let steps = read_steps(steps)?;
    let blocks = blocks_by_request(&blocks, &starts)?;
    let requests = Requests {
        arrival_s: arrival_s.as_slice()?,
        prompt_tokens: prompt_tokens.as_slice()?,
        output_tokens: output_tokens.as_slice()?,
        blocks: &blocks,
    };
    check_requests(&requests)?;
    let engine = read_engine(engine)?;
    let replayed = detached(py, || scheduler::replay(&steps, engine, requests))?.map_err(CoreError::from)?;
    as_dict(py, replayed)
}

/// What became of the requests, by name.
fn as_dict(py: Python<'_>, replayed: Replayed) -> PyResult<Bound<'_, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("first_s", PyArray1::from_vec(py, replayed.first_s))?;
    out.set_item("done_s", PyArray1::from_vec(py, replayed.done_s))?;
    for (name, value) in [
        ("span_s", replayed.span_s),
        ("busy_s", replayed.busy_s),
        ("energy_j", replayed.joules),
        ("energy_idle_j", replayed.idle_j),
        ("mean_held_tokens", replayed.mean_held_tokens),
        ("mean_running", replayed.mean_running),
        ("window_s", replayed.window.seconds),
        ("window_j", replayed.window.joules),
        ("window_idle_j", replayed.window.idle_j),
        ("window_made", replayed.window.output_tokens as f64),
        ("window_busy_s", replayed.window.busy_s),
        ("window_ran_s", replayed.window.request_s),
    ] {
        out.set_item(name, value)?;
    }
    for (name, value) in [
        ("steps", replayed.steps),
        ("prefix_hit_tokens", replayed.prefix_hit_tokens),
        ("preempted", replayed.preempted),
        ("refused", replayed.rejected),
    ] {
        out.set_item(name, value)?;
    }
    Ok(out)
}

/// Prompt tokens that prefix caches of so many tokens each would hold, the least recently used block evicted first.
#[pyfunction]
pub fn prefix_hit_tokens(
    py: Python<'_>,
    #[pyo3(from_py_with = fits)] blocks: Vec<u32>,
    #[pyo3(from_py_with = fits)] starts: Vec<usize>,
    #[pyo3(from_py_with = fits)] block_tokens: u64,
    #[pyo3(from_py_with = fits)] capacities: Vec<u64>,
) -> PyResult<Vec<u64>> {
    let prompts = blocks_by_request(&blocks, &starts)?;
    let different = blocks.iter().max().map_or(0, |most| *most as usize + 1);
    let tokens = detached(py, || prefix::hit_tokens(&prompts, different, block_tokens, &capacities))?;
    tokens.map_err(|problem| CoreError::from(problem).into())
}
