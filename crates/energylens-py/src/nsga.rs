//! The `Nsga` class: a search in progress.

use energylens_core::search::Search;
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{Guarded, Held, detached, fits};
use crate::errors::{CoreError, fault};
use crate::plan::{Plan, read_reduction};

/// Most points of a population.
const MOST_POPULATION: usize = 1_000_000;

/// NSGA-II over a space, generation by generation.
#[pyclass(frozen, module = "energylens._core")]
pub struct Nsga {
    plan: Py<Plan>,
    search: Guarded<Search>,
}

#[pymethods]
impl Nsga {
    /// Objectives are columns with a sign (1 to minimise), bounds columns with their range.
    #[new]
    fn new(
        py: Python<'_>,
        plan: Py<Plan>,
        space: &str,
        objectives: Vec<(String, f64)>,
        bounds: Vec<(String, f64, f64)>,
        #[pyo3(from_py_with = fits)] population: usize,
        #[pyo3(from_py_with = fits)] seed: u64,
    ) -> PyResult<Self> {
        if population > MOST_POPULATION {
            return Err(fault("population", format!("a population has at most {MOST_POPULATION}, found {population}")));
        }
        let space = plan.bind(py).get().space(space)?;
        let requested = read_reduction(&objectives, &bounds)?;
        Ok(Self { plan, search: Guarded::new(Search::new(space, requested, population, seed)) })
    }

    /// Runs one generation.
    fn step(&self, py: Python<'_>, #[pyo3(from_py_with = fits)] threads: usize) -> PyResult<()> {
        let plan = self.plan.bind(py).get();
        detached(py, || -> PyResult<()> {
            let done = self.search.lock_detached()?.step(&plan.0, threads);
            done.map_err(|problem| CoreError::from(problem).into())
        })?
    }

    /// Generations done.
    #[getter]
    fn generation(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.lock(py)?.generation)
    }

    /// Different points met.
    #[getter]
    fn points(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.lock(py)?.points())
    }

    /// Whether every point of the space has been met.
    #[getter]
    fn exhausted(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.lock(py)?.exhausted())
    }

    /// The best of all points met: `indices`, `objectives` by row (all minimised), `by_reason` (counts), and `outside`, the number
    /// of points outside the bounds.
    fn best<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let search = self.lock(py)?;
        let members = search.archive.front.members();
        let indices: Vec<u64> = members.iter().map(|member| member.index).collect();
        let rows: Vec<Vec<f64>> = members.into_iter().map(|member| member.objectives).collect();
        let rows = PyArray2::from_vec2(py, &rows).map_err(|e| fault("internal", e.to_string()))?;
        let out = PyDict::new(py);
        out.set_item("indices", indices.into_pyarray(py))?;
        out.set_item("objectives", rows)?;
        out.set_item("by_reason", search.archive.by_reason.to_vec())?;
        out.set_item("outside", search.archive.outside)?;
        Ok(out)
    }

    /// Arrays from which the search can go on.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let search = self.lock(py)?;
        let out = PyDict::new(py);
        let front: Vec<u64> = search.archive.front.members().iter().map(|member| member.index).collect();
        out.set_item("generation", vec![search.generation].into_pyarray(py))?;
        out.set_item("population", search.population().into_pyarray(py))?;
        let (ranks, crowding) = search.standing();
        out.set_item("rank", ranks.into_pyarray(py))?;
        out.set_item("crowding", crowding.into_pyarray(py))?;
        out.set_item("seen", search.seen().into_pyarray(py))?;
        out.set_item("front", front.into_pyarray(py))?;
        let counts: Vec<u64> = search.archive.by_reason.into_iter().chain([search.archive.outside]).collect();
        out.set_item("counts", counts.into_pyarray(py))?;
        Ok(out)
    }

    /// Goes on from the arrays of `state`.
    fn restore(
        &self,
        py: Python<'_>,
        state: &Bound<'_, PyDict>,
        #[pyo3(from_py_with = fits)] threads: usize,
    ) -> PyResult<()> {
        let damaged = || fault("state", "the state does not fit the search");
        let array =
            |name| -> PyResult<PyReadonlyArray1<'_, u64>> { state.get_item(name)?.ok_or_else(damaged)?.extract() };
        let (generation, population, rank) = (array("generation")?, array("population")?, array("rank")?);
        let (crowding, seen, front, counts) = (array("crowding")?, array("seen")?, array("front")?, array("counts")?);
        let plan = self.plan.bind(py).get();
        let (population, seen, front) = (population.as_slice()?, seen.as_slice()?, front.as_slice()?);
        let standing = (rank.as_slice()?, crowding.as_slice()?);
        let (generation, counts) = (generation.as_slice()?, counts.as_slice()?);
        let (size, reasons) = {
            let search = self.lock(py)?;
            (search.space().size(), search.archive.by_reason.len())
        };
        let outside = population.iter().chain(seen).chain(front).any(|key| *key >= size);
        let (Some(generation), Some((beyond, by_reason))) = (generation.first(), counts.split_last()) else {
            return Err(damaged());
        };
        let uneven = standing.0.len() != population.len() || standing.1.len() != population.len();
        let unranked = standing.0.iter().any(|rank| u32::try_from(*rank).is_err());
        if outside || uneven || unranked || population.is_empty() || by_reason.len() > reasons {
            return Err(damaged());
        }
        detached(py, || -> PyResult<()> {
            let mut search = self.search.lock_detached()?;
            let restored = search.restore(&plan.0, *generation, population, standing, seen, front, threads);
            if !restored.map_err(CoreError::from)? {
                return Ok(());
            }
            // Reasons added since a state was written come last.
            search.archive.by_reason[..by_reason.len()].copy_from_slice(by_reason);
            search.archive.outside = *beyond;
            Ok(())
        })?
    }
}

impl Nsga {
    fn lock(&self, py: Python<'_>) -> PyResult<Held<'_, Search>> {
        self.search.lock(py)
    }
}
