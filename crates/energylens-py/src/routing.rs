//! Loads of experts by law, placement and tokens, as columns.

use energylens_core::routing::table::{TILE_ROWS, known, places};
use energylens_core::routing::{Choice, Law, Placement};
use pyo3::prelude::*;

use crate::plan::fault;

/// Experts hit on a mean GPU, experts hit and tokens on the busiest, then tiles there by rows of a tile.
type Columns = (Vec<f64>, Vec<f64>, Vec<f64>, Vec<Vec<f64>>);

/// What numbers of tokens load on GPUs under a law, as JSON, and a placement, by its code.
#[pyfunction]
pub fn routing_loads(
    law: &str,
    experts: usize,
    active: usize,
    gpus: usize,
    placement: u16,
    tokens: Vec<f64>,
) -> PyResult<Columns> {
    let law: Law = serde_json::from_str(law).map_err(|e| fault("routing", e.to_string()))?;
    let placement = Placement::of(placement);
    let dealt = gpus > 0 && (experts + placement.more()).is_multiple_of(gpus);
    let fits = match &law {
        Law::Counts(layers) => !layers.is_empty() && layers.iter().all(|layer| layer.len() == experts),
        _ => true,
    };
    if !(1..=experts).contains(&active) || !dealt || !fits {
        return Err(fault("routing", "experts, those active, GPUs and counts do not agree"));
    }
    let table = known(&law, Choice { experts, active, gpus }, placement);
    let mut found: Columns = (Vec::new(), Vec::new(), Vec::new(), vec![Vec::new(); TILE_ROWS.len()]);
    for tokens in tokens {
        let place = places(&[tokens]);
        let loads = table.loads(&place);
        found.0.push(loads.hits[0]);
        found.1.push(loads.busy_hits[0]);
        found.2.push(table.busy_tokens(&place)[0]);
        for (tile, column) in found.3.iter_mut().enumerate() {
            column.push(table.tiles(tile, &place)[0]);
        }
    }
    Ok(found)
}
