//! Loads of experts by routing law, placement and tokens, as columns.

use energylens_core::routing::table::{TILE_ROWS, known, places};
use energylens_core::routing::{self, Choice, Law, MOST_EXPERTS, Placement};
use pyo3::prelude::*;

use crate::call::{detached, fits};
use crate::errors::fault;

/// Experts hit on a mean GPU, experts hit and tokens on the busiest, then tiles there by rows of a tile.
type Columns = (Vec<f64>, Vec<f64>, Vec<f64>, Vec<Vec<f64>>);

/// Most tokens that loads are looked up for.
const MOST_TOKENS: f64 = 1e15;

/// What numbers of tokens load on GPUs under a law, as JSON, and a placement, by its code.
#[pyfunction]
pub fn routing_loads(
    py: Python<'_>,
    law: &str,
    #[pyo3(from_py_with = fits)] experts: usize,
    #[pyo3(from_py_with = fits)] active: usize,
    #[pyo3(from_py_with = fits)] gpus: usize,
    #[pyo3(from_py_with = fits)] placement: u16,
    tokens: Vec<f64>,
) -> PyResult<Columns> {
    let law: Law = serde_json::from_str(law).map_err(|e| fault("routing", e.to_string()))?;
    let placement = Placement::of(placement);
    let dealt = gpus > 0 && experts.saturating_add(placement.more()).is_multiple_of(gpus);
    if experts > MOST_EXPERTS {
        return Err(fault("experts", format!("{experts} experts are more than {MOST_EXPERTS}")));
    }
    if !tokens.iter().all(|tokens| (0.0..=MOST_TOKENS).contains(tokens)) {
        return Err(fault("tokens", format!("tokens are 0 to {MOST_TOKENS}")));
    }
    if !(1..=experts).contains(&active) || !dealt {
        return Err(fault("experts", "experts, those active and GPUs do not agree"));
    }
    if let Some(message) = law.fault(experts, active) {
        return Err(fault("routing", message));
    }
    let table = detached(py, || known(&law, Choice { experts, active, gpus }, placement))?;
    let mut columns: Columns = (Vec::new(), Vec::new(), Vec::new(), vec![Vec::new(); TILE_ROWS.len()]);
    for tokens in tokens {
        let place = places(&[tokens]);
        let loads = table.loads(&place);
        columns.0.push(loads.hits[0]);
        columns.1.push(loads.busy_hits[0]);
        columns.2.push(table.busy_tokens(&place)[0]);
        for (tile, column) in columns.3.iter_mut().enumerate() {
            column.push(table.tiles(tile, &place)[0]);
        }
    }
    Ok(columns)
}

/// Of so many GPUs or nodes, those that hold any of a token's experts.
#[pyfunction]
pub fn reach(parts: f64, experts: f64, active: f64) -> f64 {
    routing::reach(parts, experts, active, None)
}

/// Why a law, as JSON, cannot be that of a model of so many experts; none if it can.
#[pyfunction]
pub fn routing_fault(
    law: &str,
    #[pyo3(from_py_with = fits)] experts: usize,
    #[pyo3(from_py_with = fits)] active: usize,
) -> PyResult<Option<String>> {
    let law: Law = serde_json::from_str(law).map_err(|e| fault("routing", e.to_string()))?;
    Ok(law.fault(experts, active))
}
