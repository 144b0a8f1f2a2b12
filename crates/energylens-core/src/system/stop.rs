//! Stopping work that its caller no longer wants: one flag for a call, at which loops look once a block.
//!
//! The flag belongs to the thread that called, and goes along to the threads that help it; nothing has to be handed down.
//! What was stopped returns early with whatever it has: who called throws that away, and caches take nothing of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the caller is asked whether to go on.
pub const EVERY: Duration = Duration::from_millis(50);

/// Small units of work (a lane, a request, a block of a prompt) between two checks of [`stopped`].
pub const WORK_PER_CHECK: usize = 4096;

/// The flag of a call, as threads that help it have it.
#[derive(Clone, Debug, Default)]
pub struct Flag(Option<Arc<AtomicBool>>);

/// The work was stopped: what it returned is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// What a thread knows of the call it works for.
struct Call {
    flag: Flag,
    /// Asks the caller whether to stop; only its own thread does.
    wanted: Option<Box<dyn Fn() -> bool>>,
    last_check: Cell<Instant>,
}

thread_local! {
    static CALL: RefCell<Option<Rc<Call>>> = const { RefCell::new(None) };
}

/// Puts back what the thread worked for before.
struct Restore(Option<Rc<Call>>);

impl Drop for Restore {
    fn drop(&mut self) {
        let before = self.0.take();
        CALL.with(|call| *call.borrow_mut() = before);
    }
}

impl Call {
    fn enter(self) -> Restore {
        Restore(CALL.with(|call| call.borrow_mut().replace(Rc::new(self))))
    }

    fn stopped(&self) -> bool {
        let Some(flag) = &self.flag.0 else { return false };
        if let Some(wanted) = self.wanted.as_ref().filter(|_| self.last_check.get().elapsed() >= EVERY) {
            if !flag.load(Ordering::Relaxed) && wanted() {
                flag.store(true, Ordering::Relaxed);
            }
            self.last_check.set(Instant::now());
        }
        flag.load(Ordering::Relaxed)
    }
}

/// Does some work, stopped soon after `wanted` says so; it is called on this thread, some twenty times a second.
///
/// # Errors
/// If the work was stopped.
pub fn stoppable<R>(wanted: impl Fn() -> bool + 'static, work: impl FnOnce() -> R) -> Result<R, Stopped> {
    let flag = Flag(Some(Arc::default()));
    let call = Call { flag: flag.clone(), wanted: Some(Box::new(wanted)), last_check: Cell::new(Instant::now()) };
    let entered = call.enter();
    let result = work();
    drop(entered);
    let stopped = flag.0.is_some_and(|flag| flag.load(Ordering::Relaxed));
    if stopped { Err(Stopped) } else { Ok(result) }
}

/// Whether the call that this thread works for is to stop; cheap enough for every block of points.
pub fn stopped() -> bool {
    // The caller may call again from within `wanted`, so nothing stays borrowed.
    let call = CALL.with(|call| call.borrow().clone());
    call.is_some_and(|call| call.stopped())
}

/// The flag of the call that this thread works for.
pub fn flag() -> Flag {
    CALL.with(|call| call.borrow().as_ref().map(|call| call.flag.clone())).unwrap_or_default()
}

impl Flag {
    /// Helps with the work of a call from another thread.
    pub fn help<R>(self, work: impl FnOnce() -> R) -> R {
        let call = Call { flag: self, wanted: None, last_check: Cell::new(Instant::now()) };
        let entered = call.enter();
        let result = work();
        drop(entered);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_stops_once_its_caller_wants_that() {
        let rounds = Cell::new(0_u64);
        let result = stoppable(
            || true,
            || {
                while !stopped() {
                    rounds.set(rounds.get() + 1);
                }
            },
        );
        assert_eq!((result, rounds.get() > 0), (Err(Stopped), true));
        assert!(!stopped());
        assert_eq!(stoppable(|| false, || 7), Ok(7));
    }

    #[test]
    fn helpers_stop_with_the_caller_and_calls_within_calls_are_apart() {
        let result = stoppable(
            || true,
            || {
                let flag = flag();
                std::thread::scope(|scope| {
                    scope.spawn(|| flag.help(|| while !stopped() {}));
                    assert_eq!(stoppable(|| false, stopped), Ok(false));
                    while !stopped() {}
                });
            },
        );
        assert_eq!(result, Err(Stopped));
    }
}
