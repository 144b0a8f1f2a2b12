//! The `Reduction` class: what is kept of ranges of a space.

use energylens_core::engine::Schedule;
use energylens_core::engine::space::{Listed, Space};
use energylens_core::reduce::bins::Bins;
use energylens_core::reduce::groups::Grouping;
use energylens_core::reduce::{Reduction as CoreReduction, Wanted};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{Guarded, Held, detached, fits};
use crate::errors::fault;
use crate::plan::{Plan, asked, position};

/// Most of the best that are kept.
const MOST_TOP: usize = 1_000_000;

type Column<'py, T> = PyReadonlyArray1<'py, T>;

/// What is kept of the points of a space: a front, the best few, the best of each group, distributions, counts.
#[pyclass(frozen, module = "energylens._core")]
pub struct Reduction {
    plan: Py<Plan>,
    space: Space,
    kept: Guarded<CoreReduction>,
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
        let mut wanted = Wanted { resolution, top, ..asked(&objectives, &bounds)? };
        for name in &distributions {
            let column = position(name)?;
            if wanted.distributions.contains(&column) {
                return Err(fault("distributions", format!("`{name}` is there twice")));
            }
            wanted.distributions.push(column);
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
            wanted.groups = Some(grouping);
        }
        Ok(Self { plan, space, kept: Guarded::new(CoreReduction::new(wanted)) })
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
            let mut kept = self.kept.lock_detached()?;
            if lo < hi {
                kept.walk(&plan.0, &self.space, lo..hi, schedule, threads);
            }
            Ok(())
        })?
    }

    /// Takes in what another reduction of the same space kept: points of its front, top and groups, bins and counts.
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
        let order: Vec<usize> = columns.iter().collect();
        let place = |column: usize| order.iter().position(|c| *c == column).unwrap_or(0);
        let points = indices.iter().enumerate().map(|(row, index)| {
            let value = |(column, sign): &(usize, f64)| sign * table.columns[place(*column)][row];
            (*index, objectives.iter().map(value).collect::<Vec<f64>>())
        });
        detached(py, || -> PyResult<()> {
            let mut kept = self.kept.lock_detached()?;
            // All of it or, if it is stopped, nothing.
            let Some(mut all) = kept.with_points(points) else { return Ok(()) };
            for (column, bin, count) in bins {
                if let Some(own) = all.bins.get_mut(column) {
                    own.add(bin, count);
                }
            }
            all.by_reason.iter_mut().zip(by_reason).for_each(|(own, other)| *own = own.saturating_add(other));
            all.outside = all.outside.saturating_add(outside);
            *kept = all;
            Ok(())
        })?
    }

    /// Everything kept: `front` and `top` (indices), `group` and `best` (a group and its index), `bin_column`, `bin`,
    /// `bin_low`, `bin_high` and `bin_count`, `by_reason`, `outside`.
    fn kept<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let kept = self.lock(py)?;
        let out = PyDict::new(py);
        out.set_item("front", array(py, kept.front.members().iter().map(|member| member.index)))?;
        out.set_item("top", array(py, kept.top.indices().into_iter()))?;
        out.set_item("group", array(py, kept.best.members().map(|(group, _)| group)))?;
        out.set_item("best", array(py, kept.best.members().map(|(_, index)| index)))?;
        let bins =
            || kept.bins.iter().enumerate().flat_map(|(c, bins)| bins.members().map(move |(b, n)| (c as u64, b, n)));
        out.set_item("bin_column", array(py, bins().map(|(column, ..)| column)))?;
        out.set_item("bin", array(py, bins().map(|(_, bin, _)| bin)))?;
        out.set_item("bin_count", array(py, bins().map(|(.., count)| count)))?;
        let edges =
            |shift: u64| bins().map(|(_, bin, _)| Bins::low(bin + shift)).collect::<Vec<f64>>().into_pyarray(py);
        out.set_item("bin_low", edges(0))?;
        out.set_item("bin_high", edges(1))?;
        out.set_item("by_reason", array(py, kept.by_reason.into_iter()))?;
        out.set_item("outside", kept.outside)?;
        Ok(out)
    }
}

fn array(py: Python<'_>, values: impl Iterator<Item = u64>) -> Bound<'_, PyArray1<u64>> {
    values.collect::<Vec<u64>>().into_pyarray(py)
}

impl Reduction {
    fn lock(&self, py: Python<'_>) -> PyResult<Held<'_, CoreReduction>> {
        self.kept.lock(py)
    }
}
