//! The `Reduction` class: reductions over evaluated points of a space.

use energylens_core::engine::Schedule;
use energylens_core::engine::space::{Listed, Space};
use energylens_core::reduce::bins::Bins;
use energylens_core::reduce::groups::Grouping;
use energylens_core::reduce::{Reduction as CoreReduction, Wanted};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{Guarded, Held, detached, fits};
use crate::columns::position;
use crate::errors::{CoreError, fault};
use crate::plan::{Plan, read_reduction};

/// Largest top-k.
const MOST_TOP: usize = 1_000_000;

type Column<'py, T> = PyReadonlyArray1<'py, T>;

/// Reductions over evaluated points of a space: Pareto front, top-k, best of each group, histograms, counts by reason.
#[pyclass(frozen, module = "energylens._core")]
pub struct Reduction {
    plan: Py<Plan>,
    space: Space,
    reduction: Guarded<CoreReduction>,
}

#[pymethods]
impl Reduction {
    /// Objectives are columns with a sign (1 to minimise), bounds columns with their range; `resolution` are bits of
    /// mantissa that tell objectives apart; `top` and `groups` (axes) go by the first objective.
    #[new]
    #[pyo3(signature = (plan, space, objectives, bounds, resolution=None, top=0, groups=None, distributions=Vec::new()))]
    #[expect(clippy::too_many_arguments, reason = "one argument for each kind of reduction")]
    fn new(
        py: Python<'_>,
        plan: Py<Plan>,
        space: &str,
        objectives: Vec<(String, f64)>,
        bounds: Vec<(String, f64, f64)>,
        #[pyo3(from_py_with = fits)] resolution: Option<u32>,
        #[pyo3(from_py_with = fits)] top: usize,
        groups: Option<Vec<String>>,
        distributions: Vec<String>,
    ) -> PyResult<Self> {
        let space = plan.bind(py).get().space(space)?;
        if top > MOST_TOP {
            return Err(fault("top", format!("at most {MOST_TOP} of the best are kept, found {top}")));
        }
        let mut requested = Wanted { resolution, top, ..read_reduction(&objectives, &bounds)? };
        for name in &distributions {
            let column = position(name)?;
            if requested.distributions.contains(&column) {
                return Err(fault("distributions", format!("`{name}` is there twice")));
            }
            requested.distributions.push(column);
        }
        if let Some(names) = groups {
            let axis = |name: &String| Space::AXES.iter().position(|axis| axis == name);
            let axes: Option<Vec<usize>> = names.iter().map(axis).collect();
            let axes = axes.ok_or_else(|| fault("axis", "no such axis"))?;
            if (1..axes.len()).any(|at| axes[..at].contains(&axes[at])) {
                return Err(fault("groups", "an axis is there twice"));
            }
            let grouping = Grouping::new(&space, &axes)
                .ok_or_else(|| fault("groups", format!("more than {} groups", Grouping::MOST)))?;
            requested.groups = Some(grouping);
        }
        Ok(Self { plan, space, reduction: Guarded::new(CoreReduction::new(requested)) })
    }

    /// Takes in points `lo` to `hi` of the space; `direct` evaluates each from scratch, with the same result.
    #[pyo3(signature = (lo, hi, threads, direct=false))]
    fn run(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = fits)] lo: u64,
        #[pyo3(from_py_with = fits)] hi: u64,
        #[pyo3(from_py_with = fits)] threads: usize,
        direct: bool,
    ) -> PyResult<()> {
        let hi = hi.min(self.space.size());
        let plan = self.plan.bind(py).get();
        let schedule = if direct { Schedule::Direct } else { Schedule::Best };
        detached(py, || -> PyResult<()> {
            let mut reduction = self.reduction.lock_detached()?;
            if lo < hi {
                reduction.walk(&plan.0, &self.space, lo..hi, schedule, threads);
            }
            Ok(())
        })?
    }

    /// Takes in the contents of another reduction of the same space: points of its front, top and groups, bins and counts.
    fn merge<'py>(
        &self,
        py: Python<'py>,
        points: Column<'py, u64>,
        #[pyo3(from_py_with = fits)] bins: Vec<(usize, u64, u64)>,
        #[pyo3(from_py_with = fits)] by_reason: Vec<u64>,
        #[pyo3(from_py_with = fits)] outside: u64,
        #[pyo3(from_py_with = fits)] threads: usize,
    ) -> PyResult<()> {
        let plan = self.plan.bind(py).get();
        let indices = points.as_slice()?;
        if indices.iter().any(|i| *i >= self.space.size()) {
            return Err(fault("index", "a point is outside the space"));
        }
        // Never wait for one of the interpreter and the lock while holding the other.
        let objectives = self.lock(py)?.wanted().objectives.clone();
        let columns = objectives.iter().map(|(column, _)| *column).collect();
        let table = detached(py, || plan.0.evaluate(&Listed { space: &self.space, indices }, columns, threads))?;
        let table = table.map_err(CoreError::from)?;
        let order: Vec<usize> = columns.iter().collect();
        let place = |column: usize| order.iter().position(|c| *c == column).unwrap_or(0);
        let points = indices.iter().enumerate().map(|(row, index)| {
            let value = |(column, sign): &(usize, f64)| sign * table.columns[place(*column)][row];
            (*index, objectives.iter().map(value).collect::<Vec<f64>>())
        });
        detached(py, || -> PyResult<()> {
            let mut reduction = self.reduction.lock_detached()?;
            // All of it or, if it is stopped, nothing.
            let Some(mut all) = reduction.with_points(points) else { return Ok(()) };
            for (column, bin, count) in bins {
                if let Some(counts) = all.bins.get_mut(column) {
                    counts.add(bin, count);
                }
            }
            all.by_reason.iter_mut().zip(by_reason).for_each(|(sum, count)| *sum = sum.saturating_add(count));
            all.outside = all.outside.saturating_add(outside);
            *reduction = all;
            Ok(())
        })?
    }

    /// Everything so far: `front` and `top` (indices), `group` and `best` (a group and its index), `bin_column`, `bin`,
    /// `bin_low`, `bin_high` and `bin_count`, `by_reason`, `outside`.
    fn contents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let reduction = self.lock(py)?;
        let out = PyDict::new(py);
        out.set_item("front", array(py, reduction.front.members().iter().map(|member| member.index)))?;
        out.set_item("top", array(py, reduction.top.indices().into_iter()))?;
        out.set_item("group", array(py, reduction.best.members().map(|(group, _)| group)))?;
        out.set_item("best", array(py, reduction.best.members().map(|(_, index)| index)))?;
        let bins = || {
            reduction.bins.iter().enumerate().flat_map(|(c, bins)| bins.members().map(move |(b, n)| (c as u64, b, n)))
        };
        out.set_item("bin_column", array(py, bins().map(|(column, ..)| column)))?;
        out.set_item("bin", array(py, bins().map(|(_, bin, _)| bin)))?;
        out.set_item("bin_count", array(py, bins().map(|(.., count)| count)))?;
        let edges =
            |shift: u64| bins().map(|(_, bin, _)| Bins::low(bin + shift)).collect::<Vec<f64>>().into_pyarray(py);
        out.set_item("bin_low", edges(0))?;
        out.set_item("bin_high", edges(1))?;
        out.set_item("by_reason", array(py, reduction.by_reason.into_iter()))?;
        out.set_item("outside", reduction.outside)?;
        Ok(out)
    }
}

fn array(py: Python<'_>, values: impl Iterator<Item = u64>) -> Bound<'_, PyArray1<u64>> {
    values.collect::<Vec<u64>>().into_pyarray(py)
}

impl Reduction {
    fn lock(&self, py: Python<'_>) -> PyResult<Held<'_, CoreReduction>> {
        self.reduction.lock(py)
    }
}
