//! The Python face of `energylens-core`: translates, detaches from the GIL, returns columns. No logic.

mod call;
mod columns;
mod errors;
mod nsga;
mod plan;
mod points;
mod reduction;
mod replay;
mod routing;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The compiled core of energylens.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::errors::{PlanError, Problem};
    #[pymodule_export]
    use super::nsga::Nsga;
    #[pymodule_export]
    use super::plan::{Infeasible, Plan};
    #[pymodule_export]
    use super::reduction::Reduction;
    #[pymodule_export]
    use super::replay::{prefix_hit_tokens, replay};
    #[pymodule_export]
    use super::routing::{reach, routing_fault, routing_loads};
    use super::*;

    /// Positions of the rows nothing dominates (all columns minimised), in order.
    #[pyfunction]
    fn non_dominated(py: Python<'_>, rows: Vec<Vec<f64>>) -> PyResult<Vec<u64>> {
        let width = rows.first().map_or(0, Vec::len);
        if width > energylens_core::reduce::MOST_OBJECTIVES || rows.iter().any(|row| row.len() != width) {
            return Err(errors::fault("objectives", "rows of at most six columns, all of the same length"));
        }
        if rows.iter().flatten().any(|value| value.is_nan()) {
            return Err(errors::fault("objectives", "objectives are numbers"));
        }
        call::detached(py, || energylens_core::reduce::front::non_dominated(&rows))
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Each exception has its own tuple; the class has an empty one, so that the attribute exists however one is made.
        module.py().get_type::<PlanError>().setattr("problems", PyTuple::empty(module.py()))?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
        module.add("COLUMNS", energylens_core::batch::serve::column_names().to_vec())?;
        module.add("TILE_ROWS", energylens_core::routing::table::TILE_ROWS.to_vec())?;
        module.add("REASONS", energylens_core::lowering::mesh::Reason::NAMES.to_vec())?;
        module.add("CAUSES", energylens_core::batch::phase::CAUSES.to_vec())?;
        module.add("AXES", energylens_core::engine::space::Space::AXES.to_vec())?;
        module.add("FUNCTIONS", energylens_core::einsum::Function::ALL.map(|(name, _)| name).to_vec())?;
        module.add("DTYPES", energylens_core::hardware::dtype::DTYPES.map(|d| d.name).to_vec())?;
        Ok(())
    }
}
