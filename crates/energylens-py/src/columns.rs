//! Columns in and out without a copy.

use energylens_core::engine::Table;
use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A table as a dict of arrays, `reason` among them.
pub fn table(py: Python<'_>, table: Table) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    for (name, column) in energylens_core::engine::column_names().into_iter().zip(table.columns) {
        columns.set_item(name, column.into_pyarray(py))?;
    }
    columns.set_item("reason", table.reasons.into_pyarray(py))?;
    Ok(columns)
}
