//! The `Plan` class: one string in, columns out.

use energylens_core::cost::collective::{Collective, Group};
use energylens_core::cost::env::Env;
use energylens_core::engine::space::{Listed, Space};
use energylens_core::engine::{CACHE_BYTES, Plan as CorePlan, Point};
use energylens_core::explain;
use energylens_core::graph::{Axis, Graph};
use energylens_core::hardware::collectives::Operation;
use energylens_core::lowering::mapping::{CacheShape, StageKind};
use energylens_core::lowering::mesh::{Mesh, Reason};
use energylens_core::numeric::shape::Poly;
use energylens_core::reduce::{MOST_OBJECTIVES, Wanted};
use energylens_core::system::memory::reserved;
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{detached, fits};
use crate::columns::{self, position};
use crate::errors::{CoreError, fault};
use crate::points::{PointArrays, format_code, read_point, smallest_point};

/// Most GPUs of a collective, far beyond any cluster.
const MOST_GPUS: u32 = 1 << 24;

/// Most degrees of an axis that a hint lists.
const MOST_ALTERNATIVES: usize = 8;

/// Why a configuration cannot be laid out.
#[pyclass(frozen, get_all, module = "energylens._core")]
pub struct Infeasible {
    /// One of `REASONS`.
    reason: &'static str,
    /// One sentence.
    message: String,
    /// What to do about it; may be empty.
    hint: String,
    /// The rank at fault.
    rank: Option<char>,
}

type Column<'py, T> = PyReadonlyArray1<'py, T>;

/// A typed plan.
#[pyclass(frozen, module = "energylens._core")]
pub struct Plan(pub(crate) CorePlan);

/// What objectives (columns with a sign, 1 to minimise) and bounds (columns with their range) ask for.
pub(crate) fn read_reduction(objectives: &[(String, f64)], bounds: &[(String, f64, f64)]) -> PyResult<Wanted> {
    if !(1..=MOST_OBJECTIVES).contains(&objectives.len()) {
        return Err(fault("objectives", format!("give one to {MOST_OBJECTIVES} objectives")));
    }
    let mut requested = Wanted::default();
    for (name, sign) in objectives {
        if sign.abs() != 1.0 {
            return Err(fault("objectives", format!("the sign of `{name}` is 1 or -1, found {sign}")));
        }
        requested.objectives.push((position(name)?, *sign));
    }
    for (name, low, high) in bounds {
        if low.is_nan() || high.is_nan() {
            return Err(fault("bounds", format!("a bound of `{name}` is no number")));
        }
        requested.bounds.push((position(name)?, *low, *high));
    }
    Ok(requested)
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
        self.0.graphs.get(model).map(Graph::parameters).ok_or_else(|| fault("model", "no such model"))
    }

    /// Bytes of the cache of one sequence of so many tokens, over all GPUs.
    fn cache_bytes(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = fits)] model: u32,
        kv_dtype: Option<String>,
        tokens: f64,
    ) -> PyResult<f64> {
        let cache = format_code(kv_dtype.as_deref())?;
        let mapped = detached(py, || self.0.mapping(&Point { cache, ..smallest_point(model, 0) }))?;
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
        let named = |name: &str| implementation.is_none_or(|requested| name.split('-').next() == Some(requested));
        let group = Group { size: gpus, span: gpus };
        let collective = Collective::only(profile, operation, group, Poly::constant(1.0), &named);
        let collective = collective.ok_or_else(|| fault("gpus", "a collective needs two GPUs or more"))?;
        let slowdown = sms.map_or(1.0, |sms| profile.link.slowdown(sms));
        let joules = collective.joules().as_constant().unwrap_or(0.0);
        let seconds = sizes.iter().map(|size| collective.seconds(&Env::<1>::default(), *size, slowdown)[0]).collect();
        Ok((seconds, sizes.iter().map(|size| size * joules).collect()))
    }

    /// What was derived from a model's text, as JSON.
    fn explain_model(&self, #[pyo3(from_py_with = fits)] model: usize) -> PyResult<String> {
        let graph = self.0.graphs.get(model).ok_or_else(|| fault("model", "no such model"))?;
        serde_json::to_string(&explain::model(graph)).map_err(|e| fault("json", e.to_string()))
    }

    /// Why a point cannot be laid out; none if it can.
    fn why_not(&self, py: Python<'_>, point: &Bound<'_, PyAny>) -> PyResult<Option<Infeasible>> {
        let point = read_point(point)?;
        let graph = self.0.graphs.get(point.model as usize).ok_or_else(|| fault("model", "no such model"))?;
        let mapped = detached(py, || self.0.mapping(&point))?;
        let Err(why) = mapped.as_ref().clone() else { return Ok(None) };
        let hint = mesh_hint(graph, &point, why.reason).unwrap_or(why.hint);
        let reason = Reason::NAMES[why.reason as usize];
        Ok(Some(Infeasible { reason, message: why.message, hint, rank: why.rank }))
    }

    /// Cost of one point kernel by kernel, as JSON.
    fn explain_point(&self, py: Python<'_>, point: &Bound<'_, PyAny>) -> PyResult<String> {
        let point = read_point(point)?;
        let kernels = detached(py, || explain::point(&self.0, &point))?.map_err(|i| fault("infeasible", i.message))?;
        serde_json::to_string(&kernels).map_err(|e| fault("json", e.to_string()))
    }

    /// Watts of the stage that draws the most, in prefill and in decode, at a point under a cap that no clocks are known for.
    fn drawn_w(&self, py: Python<'_>, point: &Bound<'_, PyAny>) -> PyResult<[f64; 2]> {
        let point = read_point(point)?;
        detached(py, || explain::drawn_w(&self.0, &point))?.map_err(|why| fault("infeasible", why.message))
    }

    /// Evaluates columns of points into the result columns named.
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        points: &Bound<'py, PyAny>,
        columns: Vec<String>,
        #[pyo3(from_py_with = fits)] threads: usize,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (points, requested) = (PointArrays::read(points)?, columns::named(&columns)?);
        columns::evaluated(py, &self.0, &points.columns(py)?, requested, threads)
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
        let (space, requested) = (self.space(space)?, columns::named(&columns)?);
        let indices = indices.as_slice()?;
        if indices.iter().any(|i| *i >= space.size()) {
            return Err(fault("index", "a point is outside the space"));
        }
        columns::evaluated(py, &self.0, &Listed { space: &space, indices }, requested, threads)
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

/// Degrees of a mesh that the model's ranks could be split by, where those of the point cannot.
fn mesh_hint(graph: &Graph, point: &Point, reason: Reason) -> Option<String> {
    let mesh = Mesh { tp: point.tp, pp: point.pp, dp: point.dp, ep: point.ep, cp: point.cp };
    if !matches!(reason, Reason::Ep | Reason::Experts | Reason::Shard) || mesh.check(graph).is_ok() {
        return None;
    }
    let alternatives = |(axis, name)| {
        let degrees: Vec<String> =
            mesh.alternatives(graph, axis).iter().take(MOST_ALTERNATIVES).map(u32::to_string).collect();
        (!degrees.is_empty()).then(|| format!("{name} {}", degrees.join(", ")))
    };
    let degrees: Vec<String> = [(Axis::Tp, "tp"), (Axis::Ep, "ep")].into_iter().filter_map(alternatives).collect();
    (!degrees.is_empty()).then(|| format!("with the rest unchanged, use {}", degrees.join("; or ")))
}

impl Plan {
    pub(crate) fn space(&self, text: &str) -> PyResult<Space> {
        Space::from_json(text, self.0.graphs.len(), self.0.profiles.len()).map_err(|p| CoreError::from(p).into())
    }
}
