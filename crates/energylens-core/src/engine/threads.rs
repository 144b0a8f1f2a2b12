//! Threads that last for one call.
//!
//! They are started and ended with the call, so that none is missing in a forked process; starting one takes some ten
//! microseconds.

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};

use crate::system::stop;

/// Most threads of a call.
const MOST: usize = 1024;

/// Signals that a helper is done, however it ends.
struct Done<'a> {
    left: &'a AtomicUsize,
    caller: &'a Thread,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.left.fetch_sub(1, Ordering::Release);
        self.caller.unpark();
    }
}

/// Runs `work` once on each of that many threads, this one among them; on fewer where the machine has no more to give.
pub(super) fn on_threads<R: Send>(threads: usize, work: impl Fn() -> R + Sync) -> Vec<R> {
    let helpers = threads.min(MOST).saturating_sub(1);
    if helpers == 0 {
        return vec![work()];
    }
    let (flag, caller, left) = (stop::flag(), thread::current(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let start = |_| {
            let (flag, done) = (flag.clone(), Done { left: &left, caller: &caller });
            left.fetch_add(1, Ordering::Relaxed);
            let help = || {
                let _done = done;
                flag.help(&work)
            };
            thread::Builder::new().spawn_scoped(scope, help).ok()
        };
        let started: Vec<_> = (0..helpers).map_while(start).collect();
        let mut results = vec![work()];
        // While others are at work, the caller still checks whether to stop.
        while left.load(Ordering::Acquire) > 0 {
            thread::park_timeout(stop::EVERY);
            stop::stopped();
        }
        for helper in started {
            match helper.join() {
                Ok(result) => results.push(result),
                Err(cause) => panic::resume_unwind(cause),
            }
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_works_once_and_all_results_return() {
        let turns = AtomicUsize::new(0);
        for threads in [0, 1, 2, 7] {
            let mut results = on_threads(threads, || turns.fetch_add(1, Ordering::Relaxed));
            results.sort_unstable();
            assert_eq!(results, (0..threads.max(1)).collect::<Vec<_>>());
            turns.store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_caller_that_has_nothing_left_to_do_still_sees_a_stop() {
        let result = stop::stoppable(
            || true,
            || {
                let first = AtomicUsize::new(0);
                on_threads(2, || {
                    if first.fetch_add(1, Ordering::Relaxed) > 0 {
                        while !stop::stopped() {}
                    }
                });
            },
        );
        assert_eq!(result, Err(stop::Stopped));
    }
}
