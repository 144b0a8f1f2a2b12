//! What a process keeps for itself, behind a lock that a forked child never waits for in vain.
//!
//! A child has none of its parent's threads: a lock that one of them held at the fork is never opened there, and a value
//! that one of them was making is never finished.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, TryLockError};

/// A value of its process; a forked child begins with a new one.
#[derive(Debug, Default)]
pub struct PerProcess<T> {
    /// The process that first used it; 0 before.
    made_in: AtomicU32,
    /// The process that the value belongs to, and the value.
    value: Mutex<(u32, T)>,
}

impl<T> PerProcess<T> {
    /// With a first value.
    pub const fn new(value: T) -> Self {
        Self { made_in: AtomicU32::new(0), value: Mutex::new((0, value)) }
    }

    /// Works on the value, which is made anew in a forked child; none if its lock cannot be had there.
    pub fn with<R>(&self, anew: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let process = process::id();
        let made_in = match self.made_in.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => process,
            Err(other) => other,
        };
        let mut guard = if made_in == process {
            self.value.lock().ok()?
        } else {
            // Held by another thread of the child, or for ever: nobody can say.
            match self.value.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return None,
            }
        };
        if guard.0 != process {
            // The parent's value is let go unseen: another thread may have been at work on what it points to.
            let parents = std::mem::replace(&mut guard.1, anew());
            if guard.0 != 0 {
                std::mem::forget(parents);
            }
            guard.0 = process;
        }
        Some(work(&mut guard.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_in_its_process() {
        let value = PerProcess::new(1);
        assert_eq!(value.with(|| 5, |value| std::mem::replace(value, 2)), Some(5));
        assert_eq!(value.with(|| 5, |value| *value), Some(2));
    }

    #[test]
    fn a_child_never_waits_for_a_lock_of_its_parent() {
        let value = PerProcess { made_in: AtomicU32::new(process::id() ^ 1), value: Mutex::new((0, 1)) };
        let held = value.value.lock();
        assert_eq!(value.with(|| 5, |value| *value), None);
        drop(held);
        assert_eq!(value.with(|| 5, |value| *value), Some(5));
    }
}
