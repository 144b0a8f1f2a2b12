//! Points as Python hands them over: objects with an attribute for each axis, single points and columns of them alike.

use energylens_core::engine::{Point, Points};
use energylens_core::error::{Problem, Problems};
use energylens_core::hardware::dtype::dtype;
use energylens_core::input::run_options::Running;
use energylens_core::phase::Phases;
use numpy::{Element, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::fits;
use crate::errors::{CoreError, fault};

/// Largest batch and length, as in a space.
const MOST_SIZE: f64 = 1e12;

/// Axes of a point that are whole numbers in its columns; number formats and run options are positions in lists of them.
const CODES: [&str; 9] = ["model", "gpu", "weight_dtype", "kv_dtype", "tp", "pp", "dp", "ep", "run_option"];
const WEIGHT_DTYPE: usize = 2;
const KV_DTYPE: usize = 3;
const RUN_OPTION: usize = 8;

/// Axes that are sizes.
const SIZES: [&str; 3] = ["batch", "prompt_tokens", "output_tokens"];

/// How points run: context parallelism, and the rest.
type RunOptions = (u32, Running);

/// Reads an attribute; a number that does not fit is refused with its value.
fn attribute<'py, T: FromPyObjectOwned<'py>>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<T> {
    fits(&object.getattr(name)?)
}

/// Reads run options by the names of their axes.
fn run_options(options: &Bound<'_, PyAny>) -> PyResult<RunOptions> {
    fn option<'py, T: FromPyObjectOwned<'py>>(options: &Bound<'py, PyDict>, axis: &str) -> PyResult<T> {
        let value = options.get_item(axis)?;
        fits(&value.ok_or_else(|| fault("run-options", format!("run option `{axis}` is missing")))?)
    }
    let options = options.cast::<PyDict>()?;
    let phases: String = option(options, "overlap_where")?;
    let known = Phases::ALL.into_iter().find(|(name, _)| *name == phases);
    let (_, overlap_where) = known.ok_or_else(|| fault("overlap", format!("`{phases}` is no phase to overlap in")))?;
    let running = Running {
        overlap_stages: option(options, "overlap_stages")?,
        overlap_sms: option(options, "overlap_sms")?,
        overlap_where,
        sequence_parallel: option(options, "sequence_parallel")?,
        fused_norm: option(options, "fused_norm")?,
        sm_clock_mhz: option(options, "sm_clock_mhz")?,
        power_cap_w: option(options, "power_cap_w")?,
        routing: option(options, "routing")?,
        placement: option(options, "placement")?,
    };
    Ok((option(options, "cp")?, running))
}

/// The code of a number format; none is the spec's default.
pub fn format_code(name: Option<&str>) -> PyResult<Option<u8>> {
    let read = |name| dtype(name).map(|format| format.code);
    name.map(read).transpose().map_err(|problem: Problem| CoreError::from(Problems::from(problem)).into())
}

/// Checks sizes: numbers above 0 that can be calculated with.
fn check_sizes(columns: [&[f64]; 3]) -> PyResult<()> {
    for (column, name) in columns.into_iter().zip(SIZES) {
        if let Some((row, size)) = column.iter().enumerate().find(|(_, size)| !(**size > 0.0 && **size <= MOST_SIZE)) {
            return Err(fault("size", format!("row {row} of `{name}` is {size}, not above 0 and at most {MOST_SIZE}")));
        }
    }
    Ok(())
}

/// One request of one token on one GPU, with the defaults of its spec.
pub fn smallest_point(model: u32, gpu: u32) -> Point {
    Point {
        model,
        gpu,
        weights: None,
        cache: None,
        tp: 1,
        pp: 1,
        dp: 1,
        ep: 1,
        cp: 1,
        running: Running::default(),
        batch: 1.0,
        prompt_tokens: 1.0,
        output_tokens: 1.0,
    }
}

/// Reads a point, an `energylens.inputs.crossing.Point`.
pub fn read_point(point: &Bound<'_, PyAny>) -> PyResult<Point> {
    let format = |name| format_code(attribute::<Option<String>>(point, name)?.as_deref());
    let (cp, running) = run_options(&point.getattr("run_options")?)?;
    let point = Point {
        model: attribute(point, "model")?,
        gpu: attribute(point, "gpu")?,
        weights: format("weight_dtype")?,
        cache: format("kv_dtype")?,
        tp: attribute(point, "tp")?,
        pp: attribute(point, "pp")?,
        dp: attribute(point, "dp")?,
        ep: attribute(point, "ep")?,
        cp,
        running,
        batch: attribute(point, "batch")?,
        prompt_tokens: attribute(point, "prompt_tokens")?,
        output_tokens: attribute(point, "output_tokens")?,
    };
    check_sizes([&[point.batch], &[point.prompt_tokens], &[point.output_tokens]])?;
    Ok(point)
}

/// The arrays of columns of points, an `energylens.inputs.crossing.PointColumns`, borrowed from Python.
pub struct PointArrays<'py> {
    formats: Vec<Option<u8>>,
    run_options: Vec<RunOptions>,
    codes: [PyReadonlyArray1<'py, u32>; CODES.len()],
    sizes: [PyReadonlyArray1<'py, f64>; SIZES.len()],
}

/// Arrays by name, as many as names.
fn arrays<'py, T: Element, const N: usize>(
    columns: &Bound<'py, PyAny>,
    names: [&str; N],
) -> PyResult<[PyReadonlyArray1<'py, T>; N]> {
    let read = |name| columns.getattr(name)?.extract::<PyReadonlyArray1<'py, T>>();
    let all = names.into_iter().map(read).collect::<PyResult<Vec<_>>>()?;
    all.try_into().map_err(|_| fault("internal", "a name has one array"))
}

impl<'py> PointArrays<'py> {
    /// Reads the arrays.
    pub fn read(columns: &Bound<'py, PyAny>) -> PyResult<Self> {
        let names: Vec<Option<String>> = attribute(columns, "dtypes")?;
        let formats = names.iter().map(|name| format_code(name.as_deref())).collect::<PyResult<Vec<_>>>()?;
        let options = columns.getattr("run_options")?.try_iter()?;
        let run_options = options.map(|options| run_options(&options?)).collect::<PyResult<Vec<_>>>()?;
        Ok(Self { formats, run_options, codes: arrays(columns, CODES)?, sizes: arrays(columns, SIZES)? })
    }

    /// The columns, checked: of one length, positions within their lists, sizes that can be calculated with.
    pub fn columns(&self, py: Python<'_>) -> PyResult<PointColumns<'_>> {
        let (mut codes, mut sizes): ([&[u32]; CODES.len()], [&[f64]; SIZES.len()]) = Default::default();
        for (slice, array) in codes.iter_mut().zip(&self.codes) {
            *slice = array.as_slice()?;
        }
        for (slice, array) in sizes.iter_mut().zip(&self.sizes) {
            *slice = array.as_slice()?;
        }
        let rows = codes[0].len();
        if codes.iter().any(|column| column.len() != rows) || sizes.iter().any(|column| column.len() != rows) {
            return Err(fault("rows", "columns differ in length"));
        }
        let beyond = |column: &[u32], count: usize| column.iter().any(|code| *code as usize >= count);
        if [WEIGHT_DTYPE, KV_DTYPE].iter().any(|column| beyond(codes[*column], self.formats.len())) {
            return Err(fault("dtype", "a format code is out of range"));
        }
        if beyond(codes[RUN_OPTION], self.run_options.len()) {
            return Err(fault("run-options", "a position of run options is out of range"));
        }
        py.detach(|| check_sizes(sizes))?;
        Ok(PointColumns { formats: &self.formats, run_options: &self.run_options, codes, sizes })
    }
}

/// Checked columns of points.
pub struct PointColumns<'a> {
    formats: &'a [Option<u8>],
    run_options: &'a [RunOptions],
    codes: [&'a [u32]; CODES.len()],
    sizes: [&'a [f64]; SIZES.len()],
}

impl Points for PointColumns<'_> {
    type Key = [u64; 5];

    fn rows(&self) -> usize {
        self.codes[0].len()
    }

    fn read(&self, row: usize) -> (Self::Key, [f64; 3]) {
        let [model, gpu, weights, cache, tp, pp, dp, ep, option] = self.codes.map(|column| u64::from(column[row]));
        let key = [model | gpu << 32, weights | cache << 32, tp | pp << 32, dp | ep << 32, option];
        (key, self.sizes.map(|column| column[row]))
    }

    fn point(&self, row: usize) -> Point {
        let [model, gpu, weights, cache, tp, pp, dp, ep, option] = self.codes.map(|column| column[row]);
        let [batch, prompt_tokens, output_tokens] = self.sizes.map(|column| column[row]);
        let format = |position: u32| self.formats.get(position as usize).copied().flatten();
        let (weights, cache) = (format(weights), format(cache));
        let (cp, running) = self.run_options.get(option as usize).copied().unwrap_or((1, Running::default()));
        Point { model, gpu, weights, cache, tp, pp, dp, ep, cp, running, batch, prompt_tokens, output_tokens }
    }
}
