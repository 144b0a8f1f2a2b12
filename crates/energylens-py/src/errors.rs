//! How errors cross to Python: a `PlanError` whose `problems` have attributes.

use energylens_core::error::{Problem as CoreProblem, Problems, Step};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

create_exception!(_core, PlanError, PyValueError, "Something the core was given is faulty; `problems` say what.");

/// One fault: a stable code, a sentence, a path and, inside a text, a span, and advice.
#[pyclass(frozen, module = "energylens._core")]
pub struct Problem(CoreProblem);

#[pymethods]
impl Problem {
    /// Stable short name of the kind of fault, such as `unknown-rank`.
    #[getter]
    fn code(&self) -> &str {
        self.0.code
    }

    /// One sentence, with the value at fault.
    #[getter]
    fn message(&self) -> &str {
        &self.0.message
    }

    /// Names of fields and positions in lists that lead to the fault in the plan.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let path = PyList::empty(py);
        for step in &self.0.path {
            match step {
                Step::Key(name) => path.append(name)?,
                Step::Index(position) => path.append(position)?,
            }
        }
        Ok(path)
    }

    /// Byte offsets within the text at `path`.
    #[getter]
    fn span(&self) -> Option<(usize, usize)> {
        self.0.span
    }

    /// What to do about it.
    #[getter]
    fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    fn __repr__(&self) -> String {
        format!("Problem(code='{}', message={:?})", self.0.code, self.0.message)
    }
}

/// What can go wrong at the boundary.
pub struct CoreError(Problems);

impl From<Problems> for CoreError {
    fn from(problems: Problems) -> Self {
        Self(problems)
    }
}

impl From<CoreProblem> for CoreError {
    fn from(problem: CoreProblem) -> Self {
        Self(problem.into())
    }
}

/// One fault as an exception.
pub fn fault(code: &'static str, message: impl Into<String>) -> PyErr {
    CoreError::from(CoreProblem::new(code, message)).into()
}

impl From<CoreError> for PyErr {
    fn from(error: CoreError) -> Self {
        Python::attach(|py| {
            let raised = PlanError::new_err(error.0.to_string());
            let problems = error.0.0.into_iter().map(|problem| Bound::new(py, Problem(problem)));
            let attached = problems
                .collect::<PyResult<Vec<_>>>()
                .and_then(|problems| PyTuple::new(py, problems))
                .and_then(|problems| raised.value(py).setattr("problems", problems));
            attached.err().unwrap_or(raised)
        })
    }
}
