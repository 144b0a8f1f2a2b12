//! The `Plan` class: one string in, columns out.

use energylens_core::batch::serve::{Columns, column_names};
use energylens_core::cost::collective::{Collective, Group};
use energylens_core::cost::env::Env;
use energylens_core::engine::space::{Listed, Space};
use energylens_core::engine::{CACHE_BYTES, Plan as CorePlan, Point};
use energylens_core::error::{Problem, Problems};
use energylens_core::explain;
use energylens_core::graph::Axis;
use energylens_core::hardware::collectives::Operation;
use energylens_core::hardware::dtype::dtype;
use energylens_core::input::run_options::Running;
use energylens_core::lowering::mapping::{CacheShape, StageKind};
use energylens_core::lowering::mesh::{Mesh, Reason};
use energylens_core::numeric::shape::Poly;
use energylens_core::reduce::{MOST_OBJECTIVES, Wanted};
use energylens_core::system::memory::reserved;
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{detached, fits};
use crate::columns::{self, PointColumns, Way};
use crate::errors::{CoreError, fault};

/// Largest batch and length, as in a space.
const MOST_SIZE: f64 = 1e12;

/// Most GPUs of a collective, far beyond any cluster.
const MOST_GPUS: u32 = 1 << 24;

/// Reason, message, hint and rank of a mesh that cannot carry a model.
type WhyNot = (String, String, String, Option<char>);

type Column<'py, T> = PyReadonlyArray1<'py, T>;

/// A typed plan.
#[pyclass(frozen, module = "energylens._core")]
pub struct Plan(pub(crate) CorePlan);

/// Position of a result column.
pub(crate) fn position(name: &str) -> PyResult<usize> {
    let found = column_names().iter().position(|column| column == name);
    found.ok_or_else(|| fault("column", format!("unknown result column `{name}`")))
}

/// What objectives (columns with a sign, 1 to minimise) and bounds (columns with their range) ask for.
pub(crate) fn asked(objectives: &[(String, f64)], bounds: &[(String, f64, f64)]) -> PyResult<Wanted> {
    if !(1..=MOST_OBJECTIVES).contains(&objectives.len()) {
        return Err(fault("objectives", format!("give one to {MOST_OBJECTIVES} objectives")));
    }
    let mut wanted = Wanted::default();
    for (name, sign) in objectives {
        if sign.abs() != 1.0 {
            return Err(fault("objectives", format!("the sign of `{name}` is 1 or -1, found {sign}")));
        }
        wanted.objectives.push((position(name)?, *sign));
    }
    for (name, low, high) in bounds {
        if low.is_nan() || high.is_nan() {
            return Err(fault("bounds", format!("a bound of `{name}` is no number")));
        }
        wanted.bounds.push((position(name)?, *low, *high));
    }
    Ok(wanted)
}

/// Result columns by name.
fn wanted(names: &[String]) -> PyResult<Columns> {
    names.iter().map(|name| position(name)).collect()
}

fn formats(names: &[Option<String>]) -> Result<Vec<Option<u8>>, CoreError> {
    let read = |name: &Option<String>| name.as_deref().map(|name| dtype(name).map(|format| format.code)).transpose();
    names.iter().map(read).collect::<Result<_, Problem>>().map_err(|p| CoreError::from(Problems::from(p)))
}

/// Checks batch, prompt and output tokens: numbers above 0 that can be calculated with.
fn sizes_fit(columns: &[&[f64]]) -> PyResult<()> {
    for (column, name) in columns.iter().zip(["batch", "prompt_tokens", "output_tokens"]) {
        if let Some((row, size)) = column.iter().enumerate().find(|(_, size)| !(**size > 0.0 && **size <= MOST_SIZE)) {
            return Err(fault("size", format!("row {row} of `{name}` is {size}, not above 0 and at most {MOST_SIZE}")));
        }
    }
    Ok(())
}

/// One request of one token on one GPU, as the spec has it.
fn bare(model: u32, gpu: u32) -> Point {
    Point {
        model,
        gpu,
        weights: None,
        cache: None,
        tp: 1,
        pp: 1,
        dp: 1,
        ep: 1,
        cp: 1,
        running: Running::default(),
        batch: 1.0,
        prompt_tokens: 1.0,
        output_tokens: 1.0,
    }
}

#[pymethods]
impl Plan {
    /// Of one canonical text; `cache_bytes` are the most that it keeps of what it makes.
    #[new]
    #[pyo3(signature = (json, cache_bytes=None))]
    fn new(py: Python<'_>, json: &str, #[pyo3(from_py_with = fits)] cache_bytes: Option<usize>) -> PyResult<Self> {
        let cache_bytes = cache_bytes.unwrap_or(CACHE_BYTES);
        let made = detached(py, || CorePlan::with_cache(json, cache_bytes))?;
        made.map(Self).map_err(|problems| CoreError::from(problems).into())
    }

    /// How many mappings and layouts it keeps, and their bytes, about.
    fn cached(&self) -> (usize, usize) {
        self.0.cached()
    }

    /// Number of weights of a model.
    fn parameters(&self, #[pyo3(from_py_with = fits)] model: usize) -> PyResult<f64> {
        self.0
            .graphs
            .get(model)
            .map(energylens_core::graph::Graph::parameters)
            .ok_or_else(|| fault("model", "no such model"))
    }

    /// Bytes of the cache of one sequence of so many tokens, over all GPUs.
    fn cache_bytes(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = fits)] model: u32,
        kv_dtype: Option<String>,
        tokens: f64,
    ) -> PyResult<f64> {
        let cache = formats(&[kv_dtype])?.first().copied().flatten();
        let mapped = detached(py, || self.0.mapping(&Point { cache, ..bare(model, 0) }))?;
        let mapping = mapped.as_ref().as_ref().map_err(|why| fault("infeasible", why.message.clone()))?;
        let each = |cache: &CacheShape| cache.bytes_per_token * tokens.min(cache.window);
        let of = |kind: &StageKind| -> f64 {
            kind.stages * kind.counts.iter().zip(&mapping.caches).map(|(n, cache)| n * each(cache)).sum::<f64>()
        };
        Ok(mapping.kinds.iter().map(of).sum())
    }

    /// Seconds and dynamic joules of a GPU, of a collective over so many GPUs, for each message size: on so many SMs (as many
    /// as it wants if none is given), by implementations of one name and its pieces (by all if none is given).
    #[pyo3(signature = (gpu, operation, gpus, sms, implementation, sizes))]
    fn collective(
        &self,
        #[pyo3(from_py_with = fits)] gpu: usize,
        operation: &str,
        #[pyo3(from_py_with = fits)] gpus: u32,
        sms: Option<f64>,
        implementation: Option<&str>,
        sizes: Vec<f64>,
    ) -> PyResult<(Vec<f64>, Vec<f64>)> {
        let profile = self.0.profiles.get(gpu).ok_or_else(|| fault("gpu", "no such GPU"))?;
        if gpus > MOST_GPUS || sms.is_some_and(|sms| !(sms > 0.0 && sms.is_finite())) {
            return Err(fault("gpus", format!("a collective takes at most {MOST_GPUS} GPUs, and SMs above 0")));
        }
        let known = Operation::ALL.into_iter().find(|known| known.name() == operation);
        let operation = known.ok_or_else(|| fault("operation", format!("`{operation}` is no collective")))?;
        let named = |name: &str| implementation.is_none_or(|own| name.split('-').next() == Some(own));
        let group = Group { size: gpus, span: gpus };
        let one = Collective::only(profile, operation, group, Poly::constant(1.0), &named);
        let one = one.ok_or_else(|| fault("gpus", "a collective needs two GPUs or more"))?;
        let slower = sms.map_or(1.0, |sms| profile.link.slower(sms));
        let joules = one.joules().as_constant().unwrap_or(0.0);
        let seconds = sizes.iter().map(|size| one.seconds(&Env::<1>::default(), *size, slower)[0]).collect();
        Ok((seconds, sizes.iter().map(|size| size * joules).collect()))
    }

    /// What was derived from a model's text, as JSON.
    fn explain_model(&self, #[pyo3(from_py_with = fits)] model: usize) -> PyResult<String> {
        let graph = self.0.graphs.get(model).ok_or_else(|| fault("model", "no such model"))?;
        serde_json::to_string(&explain::model(graph)).map_err(|e| fault("json", e.to_string()))
    }

    /// Why a mesh cannot carry a model: reason, message, hint and the rank at fault; or none.
    #[expect(clippy::too_many_arguments, reason = "one argument per degree of parallelism")]
    fn why_not(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = fits)] model: u32,
        #[pyo3(from_py_with = fits)] gpu: u32,
        #[pyo3(from_py_with = fits)] tp: u32,
        #[pyo3(from_py_with = fits)] pp: u32,
        #[pyo3(from_py_with = fits)] dp: u32,
        #[pyo3(from_py_with = fits)] ep: u32,
        #[pyo3(from_py_with = fits)] way: Way,
    ) -> PyResult<Option<WhyNot>> {
        let graph = self.0.graphs.get(model as usize).ok_or_else(|| fault("model", "no such model"))?;
        let (cp, running) = columns::running(way)?;
        let mesh = Mesh { tp, pp, dp, ep, cp };
        let name = |reason: Reason| Reason::NAMES[reason as usize].to_owned();
        let mapped = detached(py, || self.0.mapping(&Point { tp, pp, dp, ep, cp, running, ..bare(model, gpu) }))?;
        let Err(why) = mapped.as_ref().clone() else { return Ok(None) };
        let tried = [(Axis::Tp, "tp"), (Axis::Ep, "ep")].map(|(axis, name)| {
            let degrees: Vec<String> = mesh.alternatives(graph, axis).iter().take(8).map(u32::to_string).collect();
            (name, degrees.join(", "))
        });
        let splits = matches!(why.reason, Reason::Ep | Reason::Experts | Reason::Shard) && mesh.check(graph).is_err();
        let found: Vec<String> = tried
            .iter()
            .filter(|(_, list)| splits && !list.is_empty())
            .map(|(n, list)| format!("{n} {list}"))
            .collect();
        let hint =
            if found.is_empty() { why.hint } else { format!("with the rest unchanged, use {}", found.join("; or ")) };
        Ok(Some((name(why.reason), why.message, hint, why.rank)))
    }

    /// Cost of one point kernel by kernel, as JSON.
    #[pyo3(signature = (model, gpu, weight_dtype, kv_dtype, tp, pp, dp, ep, way, batch, prompt_tokens, output_tokens))]
    #[expect(clippy::too_many_arguments, reason = "one argument per axis of a point")]
    fn explain_point(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = fits)] model: u32,
        #[pyo3(from_py_with = fits)] gpu: u32,
        weight_dtype: Option<String>,
        kv_dtype: Option<String>,
        #[pyo3(from_py_with = fits)] tp: u32,
        #[pyo3(from_py_with = fits)] pp: u32,
        #[pyo3(from_py_with = fits)] dp: u32,
        #[pyo3(from_py_with = fits)] ep: u32,
        #[pyo3(from_py_with = fits)] way: Way,
        batch: f64,
        prompt_tokens: f64,
        output_tokens: f64,
    ) -> PyResult<String> {
        let found = formats(&[weight_dtype, kv_dtype])?;
        let (cp, running) = columns::running(way)?;
        let point = Point {
            model,
            gpu,
            weights: found.first().copied().flatten(),
            cache: found.get(1).copied().flatten(),
            tp,
            pp,
            dp,
            ep,
            cp,
            running,
            batch,
            prompt_tokens,
            output_tokens,
        };
        sizes_fit(&[&[batch], &[prompt_tokens], &[output_tokens]])?;
        let stories = detached(py, || explain::point(&self.0, &point))?.map_err(|i| fault("infeasible", i.message))?;
        serde_json::to_string(&stories).map_err(|e| fault("json", e.to_string()))
    }

    /// Watts of the stage that draws the most, in prefill and in decode, at a point under a cap that no clocks are known for.
    #[pyo3(signature = (model, gpu, weight_dtype, kv_dtype, tp, pp, dp, ep, way, batch, prompt_tokens, output_tokens))]
    #[expect(clippy::too_many_arguments, reason = "one argument per axis of a point")]
    fn drawn_w(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = fits)] model: u32,
        #[pyo3(from_py_with = fits)] gpu: u32,
        weight_dtype: Option<String>,
        kv_dtype: Option<String>,
        #[pyo3(from_py_with = fits)] tp: u32,
        #[pyo3(from_py_with = fits)] pp: u32,
        #[pyo3(from_py_with = fits)] dp: u32,
        #[pyo3(from_py_with = fits)] ep: u32,
        #[pyo3(from_py_with = fits)] way: Way,
        batch: f64,
        prompt_tokens: f64,
        output_tokens: f64,
    ) -> PyResult<[f64; 2]> {
        let dtypes = formats(&[weight_dtype, kv_dtype])?;
        let (cp, running) = columns::running(way)?;
        let (weights, cache) = (dtypes.first().copied().flatten(), dtypes.get(1).copied().flatten());
        let lengths = Point { batch, prompt_tokens, output_tokens, ..bare(model, gpu) };
        let point = Point { weights, cache, tp, pp, dp, ep, cp, running, ..lengths };
        sizes_fit(&[&[batch], &[prompt_tokens], &[output_tokens]])?;
        detached(py, || explain::drawn_w(&self.0, &point))?.map_err(|why| fault("infeasible", why.message))
    }

    /// Evaluates columns of points into the result columns named; format columns hold positions in `dtypes`.
    #[pyo3(signature = (dtypes, model, gpu, weight_dtype, kv_dtype, tp, pp, dp, ep, ways, way, batch, prompt_tokens, output_tokens, columns, threads))]
    #[expect(clippy::too_many_arguments, reason = "one argument per axis of a point")]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        dtypes: Vec<Option<String>>,
        model: Column<'py, u32>,
        gpu: Column<'py, u32>,
        weight_dtype: Column<'py, u32>,
        kv_dtype: Column<'py, u32>,
        tp: Column<'py, u32>,
        pp: Column<'py, u32>,
        dp: Column<'py, u32>,
        ep: Column<'py, u32>,
        #[pyo3(from_py_with = fits)] ways: Vec<Way>,
        way: Column<'py, u32>,
        batch: Column<'py, f64>,
        prompt_tokens: Column<'py, f64>,
        output_tokens: Column<'py, f64>,
        columns: Vec<String>,
        #[pyo3(from_py_with = fits)] threads: usize,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (names, wanted) = (formats(&dtypes)?, wanted(&columns)?);
        let ways = ways.into_iter().map(columns::running).collect::<PyResult<Vec<_>>>()?;
        let codes = [model, gpu, weight_dtype, kv_dtype, tp, pp, dp, ep, way];
        let sizes = [batch, prompt_tokens, output_tokens];
        let codes = codes.iter().map(|c| c.as_slice()).collect::<Result<Vec<_>, _>>()?;
        let sizes = sizes.iter().map(|c| c.as_slice()).collect::<Result<Vec<_>, _>>()?;
        let rows = codes[0].len();
        if codes.iter().any(|c| c.len() != rows) || sizes.iter().any(|c| c.len() != rows) {
            return Err(fault("rows", "columns differ in length"));
        }
        if codes[2].iter().chain(codes[3]).any(|code| *code as usize >= names.len()) {
            return Err(fault("dtype", "a format code is out of range"));
        }
        if codes[8].iter().any(|code| *code as usize >= ways.len()) {
            return Err(fault("way", "a position of a way of running is out of range"));
        }
        py.detach(|| sizes_fit(&sizes))?;
        let codes: [&[u32]; 9] = codes.try_into().map_err(|_| fault("rows", "nine columns of codes"))?;
        let sizes: [&[f64]; 3] = sizes.try_into().map_err(|_| fault("rows", "three columns of sizes"))?;
        let points = PointColumns { formats: &names, ways: &ways, codes, sizes };
        columns::evaluated(py, &self.0, &points, wanted, threads)
    }

    /// Evaluates points of a space by index into the result columns named.
    fn evaluate_space<'py>(
        &self,
        py: Python<'py>,
        space: &str,
        indices: Column<'py, u64>,
        columns: Vec<String>,
        #[pyo3(from_py_with = fits)] threads: usize,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (space, wanted) = (self.space(space)?, wanted(&columns)?);
        let indices = indices.as_slice()?;
        if indices.iter().any(|i| *i >= space.size()) {
            return Err(fault("index", "a point is outside the space"));
        }
        columns::evaluated(py, &self.0, &Listed { space: &space, indices }, wanted, threads)
    }

    /// Number of points of a space.
    fn space_size(&self, space: &str) -> PyResult<u64> {
        Ok(self.space(space)?.size())
    }

    /// How much work all points of a space are, as a number of points evaluated from scratch.
    fn space_work(&self, space: &str) -> PyResult<f64> {
        Ok(energylens_core::engine::evaluations(&self.space(space)?))
    }

    /// Digits of points of a space: one array per axis, positions in its values.
    fn space_digits<'py>(
        &self,
        py: Python<'py>,
        space: &str,
        indices: Column<'py, u64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let space = self.space(space)?;
        let indices = indices.as_slice()?;
        if indices.iter().any(|i| *i >= space.size()) {
            return Err(fault("index", "a point is outside the space"));
        }
        let what = format!("digits of {} points", indices.len());
        let room = |_| reserved(indices.len(), &what).map_err(CoreError::from);
        let mut axes = Space::AXES.iter().map(room).collect::<Result<Vec<Vec<u32>>, _>>()?;
        for index in indices {
            for (axis, digit) in axes.iter_mut().zip(space.digits(*index)) {
                axis.push(digit as u32);
            }
        }
        let out = PyDict::new(py);
        for (name, axis) in Space::AXES.iter().zip(axes) {
            out.set_item(*name, axis.into_pyarray(py))?;
        }
        Ok(out)
    }
}

impl Plan {
    pub(crate) fn space(&self, text: &str) -> PyResult<Space> {
        Space::from_json(text, self.0.graphs.len(), self.0.profiles.len()).map_err(|p| CoreError::from(p).into())
    }
}
