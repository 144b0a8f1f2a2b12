//! The `Nsga` class: a search in progress.

use energylens_core::search::Search;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{Guarded, Held, detached, fits};
use crate::errors::fault;
use crate::plan::{Plan, asked};

/// Indices, their objectives by row, counts by reason, points outside the bounds.
type Found<'py> = (Bound<'py, PyArray1<u64>>, Bound<'py, PyArray2<f64>>, Vec<u64>, u64);

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
        let wanted = asked(&objectives, &bounds)?;
        Ok(Self { plan, search: Guarded::new(Search::new(space, wanted, population, seed)) })
    }

    /// Runs one generation.
    fn step(&self, py: Python<'_>, #[pyo3(from_py_with = fits)] threads: usize) -> PyResult<()> {
        let plan = self.plan.bind(py).get();
        detached(py, || -> PyResult<()> {
            self.search.lock_detached()?.step(&plan.0, threads);
            Ok(())
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

    /// The best of all points met: indices, objectives by row (all minimised), counts by reason, points outside the bounds.
    fn found<'py>(&self, py: Python<'py>) -> PyResult<Found<'py>> {
        let search = self.lock(py)?;
        let members = search.archive.front.members();
        let indices: Vec<u64> = members.iter().map(|member| member.index).collect();
        let rows: Vec<Vec<f64>> = members.into_iter().map(|member| member.objectives).collect();
        let rows = PyArray2::from_vec2(py, &rows).map_err(|e| fault("internal", e.to_string()))?;
        Ok((indices.into_pyarray(py), rows, search.archive.by_reason.to_vec(), search.archive.outside))
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
    #[expect(clippy::too_many_arguments, reason = "one argument for each array of the state")]
    fn restore<'py>(
        &self,
        py: Python<'py>,
        generation: PyReadonlyArray1<'py, u64>,
        population: PyReadonlyArray1<'py, u64>,
        rank: PyReadonlyArray1<'py, u64>,
        crowding: PyReadonlyArray1<'py, u64>,
        seen: PyReadonlyArray1<'py, u64>,
        front: PyReadonlyArray1<'py, u64>,
        counts: PyReadonlyArray1<'py, u64>,
        #[pyo3(from_py_with = fits)] threads: usize,
    ) -> PyResult<()> {
        let plan = self.plan.bind(py).get();
        let damaged = || fault("state", "the state does not fit the search");
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
            if !search.restore(&plan.0, *generation, population, standing, seen, front, threads) {
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
