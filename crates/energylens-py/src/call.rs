//! Calls into the core: detached from the interpreter, interruptible by Ctrl-C, and serialised on objects that they change.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::process;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::Duration;

use energylens_core::system::stop::{stoppable, stopped};
use pyo3::exceptions::{PyKeyboardInterrupt, PyOverflowError};
use pyo3::prelude::*;

use crate::errors::fault;

/// Runs some work while other threads of the interpreter go on. On the main thread signals are handled meanwhile; if a handler
/// raises, as that of Ctrl-C does, the work stops and its result is dropped.
pub fn detached<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> PyResult<R> {
    py.detach(|| {
        let raised = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&raised);
        let wanted = move || {
            let raised = Python::attach(|py| py.check_signals()).err();
            let any = raised.is_some();
            slot.replace(raised);
            any
        };
        stoppable(wanted, work).map_err(|_| raised.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())))
    })
}

/// Time between two attempts to lock a value that another thread uses; signals are handled in between.
const WAIT: Duration = Duration::from_millis(10);

thread_local! {
    static MARK: u8 = const { 0 };
}

/// An address that no other thread has as long as this one lives.
fn this_thread() -> usize {
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

/// A value that one call at a time may change.
#[derive(Debug)]
pub struct Guarded<T> {
    value: Mutex<T>,
    made_in: u32,
    /// The thread that has locked it; 0 is none.
    holder: AtomicUsize,
}

/// The locked value.
pub struct Held<'a, T> {
    value: MutexGuard<'a, T>,
    holder: &'a AtomicUsize,
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.holder.store(0, Ordering::Relaxed);
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Guarded<T> {
    /// Guards a value made in this process.
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), made_in: process::id(), holder: AtomicUsize::new(0) }
    }

    /// The value, for a thread that is attached to the interpreter.
    pub fn lock(&self, py: Python<'_>) -> PyResult<Held<'_, T>> {
        loop {
            if let Some(held) = self.now()? {
                return Ok(held);
            }
            py.detach(|| thread::sleep(WAIT));
            py.check_signals()?;
        }
    }

    /// The value, for a thread that is not.
    pub fn lock_detached(&self) -> PyResult<Held<'_, T>> {
        loop {
            if let Some(held) = self.now()? {
                return Ok(held);
            }
            if stopped() {
                return Err(fault("busy", "it is at work in another thread, and waiting for it was broken off"));
            }
            thread::sleep(WAIT);
        }
    }

    /// Locks the value if nobody has it; an error where waiting for it would never end.
    fn now(&self) -> PyResult<Option<Held<'_, T>>> {
        match self.value.try_lock() {
            Ok(value) => self.held(Some(value)).map(Some),
            Err(TryLockError::Poisoned(_)) => self.held(None).map(Some),
            Err(TryLockError::WouldBlock) if self.made_in != process::id() => Err(fault(
                "fork",
                "it was at work in another thread when this process was forked; make a new one, or use the start method \
                 `spawn` or `forkserver`",
            )),
            Err(TryLockError::WouldBlock) if self.holder.load(Ordering::Relaxed) == this_thread() => {
                Err(fault("busy", "it is at work already, and this is called from within, by a handler of a signal"))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
        }
    }

    fn held<'a>(&'a self, value: Option<MutexGuard<'a, T>>) -> PyResult<Held<'a, T>> {
        let value = value.ok_or_else(|| fault("internal", "a thread failed"))?;
        self.holder.store(this_thread(), Ordering::Relaxed);
        Ok(Held { value, holder: &self.holder })
    }
}

/// Reads what Python handed over; a number that does not fit is refused with its value, not by a bare `OverflowError`.
pub fn fits<'py, T: FromPyObjectOwned<'py>>(object: &Bound<'py, PyAny>) -> PyResult<T> {
    object.extract::<T>().map_err(|error| {
        let error: PyErr = error.into();
        if !error.is_instance_of::<PyOverflowError>(object.py()) {
            return error;
        }
        let shown = object.repr().map_or_else(|_| "one of very many digits".to_owned(), |text| text.to_string());
        let cut: String = shown.chars().take(80).collect();
        fault("number", format!("a number is negative or too large: {cut}"))
    })
}
