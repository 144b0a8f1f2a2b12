//! Result columns out to Python without a copy.

use energylens_core::batch::serve::{Columns, column_names};
use energylens_core::engine::{Plan, Points};
use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::detached;
use crate::errors::fault;

/// Arrays this short are made without asking whether there is memory for them.
const SHORT: usize = 1 << 16;

/// Position of a result column.
pub fn position(name: &str) -> PyResult<usize> {
    let position = column_names().iter().position(|column| column == name);
    position.ok_or_else(|| fault("column", format!("unknown result column `{name}`")))
}

/// Result columns by name.
pub fn named(names: &[String]) -> PyResult<Columns> {
    names.iter().map(|name| position(name)).collect()
}

/// Zeros in NumPy's own memory, as it asks for large pages; a `MemoryError` where there is none left.
fn zeros<T: Element>(py: Python<'_>, rows: usize) -> PyResult<Bound<'_, PyArray1<T>>> {
    if rows <= SHORT {
        return Ok(PyArray1::zeros(py, rows, false));
    }
    let made = py.import("numpy")?.call_method1("zeros", (rows, numpy::dtype::<T>(py)))?;
    made.cast_into().map_err(Into::into)
}

/// Evaluates points into a dict of arrays by column name, `reason` among them.
pub fn evaluated<'py, P: Points>(
    py: Python<'py>,
    plan: &Plan,
    points: &P,
    requested: Columns,
    threads: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let names = column_names();
    let out = PyDict::new(py);
    let rows = points.rows();
    let arrays = requested.iter().map(|_| zeros::<f64>(py, rows)).collect::<PyResult<Vec<_>>>()?;
    let reasons = zeros::<u8>(py, rows)?;
    {
        let mut borrowed: Vec<_> = arrays.iter().map(|array| array.readwrite()).collect();
        let mut borrowed_reasons = reasons.readwrite();
        let columns = borrowed.iter_mut().map(|array| array.as_slice_mut()).collect::<Result<Vec<_>, _>>()?;
        let reasons = borrowed_reasons.as_slice_mut()?;
        detached(py, || plan.evaluate_into(points, requested, threads, columns, reasons))?;
    }
    for (column, array) in requested.iter().zip(arrays) {
        out.set_item(&names[column], array)?;
    }
    out.set_item("reason", reasons)?;
    Ok(out)
}
