//! Columns in and out without a copy.

use energylens_core::engine::Table;
use energylens_core::serving::{Columns, column_names};
use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A table of some columns as a dict of arrays, `reason` among them.
pub fn table(py: Python<'_>, wanted: Columns, table: Table) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    let names = column_names();
    for (column, values) in wanted.iter().zip(table.columns) {
        columns.set_item(&names[column], values.into_pyarray(py))?;
    }
    columns.set_item("reason", table.reasons.into_pyarray(py))?;
    Ok(columns)
}
