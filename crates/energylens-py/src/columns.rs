//! Columns in and out without a copy.

use energylens_core::batch::serve::{Columns, column_names};
use energylens_core::engine::{Plan, Point, Points};
use energylens_core::input::run_options::Running;
use energylens_core::phase::Phases;
use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::detached;
use crate::errors::fault;

/// How points run: context parallelism, overlap (stages, SMs, where), sequence parallelism, fused norms, clock, power cap, law of
/// routing, placement of experts.
pub type Way = (u32, u16, u16, String, bool, bool, u16, u16, u16, u16);

/// Reads a way of running.
pub fn running(
    (
        cp,
        overlap_stages,
        overlap_sms,
        place,
        sequence_parallel,
        fused_norm,
        sm_clock_mhz,
        power_cap_w,
        routing,
        placement,
    ): Way,
) -> PyResult<(u32, Running)> {
    let found = Phases::ALL.into_iter().find(|(name, _)| *name == place);
    let overlap_where = found.ok_or_else(|| fault("overlap", format!("`{place}` is no phase to overlap in")))?.1;
    let running = Running {
        overlap_stages,
        overlap_sms,
        overlap_where,
        sequence_parallel,
        fused_norm,
        sm_clock_mhz,
        power_cap_w,
        routing,
        placement,
    };
    Ok((cp, running))
}

/// Points as columns: model, gpu, positions of formats, tp, pp, dp, ep, positions of ways; then batch, prompt and output tokens.
pub struct PointColumns<'a> {
    /// Formats by position.
    pub formats: &'a [Option<u8>],
    /// Context parallelism and the rest, by position.
    pub ways: &'a [(u32, Running)],
    /// Whole numbers.
    pub codes: [&'a [u32]; 9],
    /// Sizes.
    pub sizes: [&'a [f64]; 3],
}

impl Points for PointColumns<'_> {
    type Key = [u64; 5];

    fn rows(&self) -> usize {
        self.codes[0].len()
    }

    fn read(&self, row: usize) -> (Self::Key, [f64; 3]) {
        let [model, gpu, weights, cache, tp, pp, dp, ep, way] = self.codes.map(|column| u64::from(column[row]));
        let key = [model | gpu << 32, weights | cache << 32, tp | pp << 32, dp | ep << 32, way];
        (key, self.sizes.map(|column| column[row]))
    }

    fn point(&self, row: usize) -> Point {
        let [model, gpu, weights, cache, tp, pp, dp, ep, way] = self.codes.map(|column| column[row]);
        let [batch, prompt_tokens, output_tokens] = self.sizes.map(|column| column[row]);
        let format = |position: u32| self.formats.get(position as usize).copied().flatten();
        let (weights, cache) = (format(weights), format(cache));
        let (cp, running) = self.ways.get(way as usize).copied().unwrap_or((1, Running::default()));
        Point { model, gpu, weights, cache, tp, pp, dp, ep, cp, running, batch, prompt_tokens, output_tokens }
    }
}

/// Arrays this short are made without asking whether there is memory for them.
const SHORT: usize = 1 << 16;

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
    wanted: Columns,
    threads: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let names = column_names();
    let out = PyDict::new(py);
    let rows = points.rows();
    let arrays = wanted.iter().map(|_| zeros::<f64>(py, rows)).collect::<PyResult<Vec<_>>>()?;
    let reasons = zeros::<u8>(py, rows)?;
    {
        let mut own: Vec<_> = arrays.iter().map(|array| array.readwrite()).collect();
        let mut own_reasons = reasons.readwrite();
        let columns = own.iter_mut().map(|array| array.as_slice_mut()).collect::<Result<Vec<_>, _>>()?;
        let reasons = own_reasons.as_slice_mut()?;
        detached(py, || plan.evaluate_into(points, wanted, threads, columns, reasons))?;
    }
    for (column, array) in wanted.iter().zip(arrays) {
        out.set_item(&names[column], array)?;
    }
    out.set_item("reason", reasons)?;
    Ok(out)
}
