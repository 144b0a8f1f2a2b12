//! A value for each process, behind a lock that a forked child never waits for in vain.
//!
//! A child has none of its parent's threads: a lock that one of them held at the fork is never opened there, and a value
//! that one of them was making is never finished. So a child takes another place, with another lock, and leaves its parent's
//! alone.

use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Processes, each forked by the one before, that have a value; those forked by the last have none.
const PLACES: usize = 8;

/// Where one process keeps its value.
#[derive(Debug)]
struct Place<T> {
    /// The process whose it is; 0 is none.
    process: AtomicU32,
    value: Mutex<Option<T>>,
}

/// A value of its process; a forked child begins with a new one.
#[derive(Debug)]
pub struct PerProcess<T>([Place<T>; PLACES]);

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> PerProcess<T> {
    /// Without a value yet.
    pub const fn new() -> Self {
        Self([const { Place { process: AtomicU32::new(0), value: Mutex::new(None) } }; PLACES])
    }

    /// Works on the value, which is made at the first use; none if there is no place left for this process.
    pub fn with<R>(&self, anew: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.with_in(process::id(), anew, work)
    }

    fn with_in<R>(&self, process: u32, anew: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        // All threads of a process come to the same place: they try them in the same order, and none is ever given back.
        let its = |place: &&Place<T>| match place.process.compare_exchange(
            0,
            process,
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(_) => true,
            Err(other) => other == process,
        };
        let mut value = self.0.iter().find(its)?.value.lock().ok()?;
        Some(work(value.get_or_insert_with(anew)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_value_stays_in_its_process() {
        let value = PerProcess::new();
        assert_eq!(value.with(|| 1, |value| std::mem::replace(value, 2)), Some(1));
        assert_eq!(value.with(|| 5, |value| *value), Some(2));
    }

    #[test]
    fn a_child_never_waits_for_a_lock_of_its_parent() {
        let value = PerProcess::new();
        let parents = value.with_in(
            7,
            || 1,
            |first| {
                let childs = value.with_in(8, || 2, |second| std::mem::replace(second, 3));
                (*first, childs)
            },
        );
        assert_eq!(parents, Some((1, Some(2))));
        assert_eq!([7, 8].map(|process| value.with_in(process, || 5, |value| *value)), [Some(1), Some(3)]);
    }

    #[test]
    fn threads_of_a_child_wait_for_each_other() {
        let value = PerProcess::new();
        value.with_in(7, || 0, |_| ());
        let entered = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                value.with_in(
                    8,
                    || 1,
                    |value| {
                        entered.store(true, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(50));
                        *value = 2;
                    },
                )
            });
            while !entered.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            assert_eq!(value.with_in(8, || 1, |value| *value), Some(2));
        });
    }

    #[test]
    fn processes_without_a_place_have_no_value() {
        let value = PerProcess::new();
        let processes = 1..=PLACES as u32 + 1;
        let values: Vec<_> = processes.map(|process| value.with_in(process, || process, |value| *value)).collect();
        assert_eq!(values[..PLACES], (1..=PLACES as u32).map(Some).collect::<Vec<_>>());
        assert_eq!(values[PLACES], None);
    }
}
