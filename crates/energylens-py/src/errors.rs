//! The one road of an error to Python: problems as JSON inside a `PlanError`.

use energylens_core::error::{Problem, Problems};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(_core, PlanError, PyValueError, "A plan is faulty; the argument is the JSON list of problems.");

/// What can go wrong at the boundary.
pub struct CoreError(Problems);

impl From<Problems> for CoreError {
    fn from(problems: Problems) -> Self {
        Self(problems)
    }
}

impl From<Problem> for CoreError {
    fn from(problem: Problem) -> Self {
        Self(problem.into())
    }
}

/// One fault as an exception.
pub fn fault(code: &'static str, message: impl Into<String>) -> PyErr {
    CoreError::from(Problem::new(code, message)).into()
}

impl From<CoreError> for PyErr {
    fn from(error: CoreError) -> Self {
        let text = serde_json::to_string(&error.0).unwrap_or_else(|_| error.0.to_string());
        PlanError::new_err(text)
    }
}
