//! Memory whose amount follows from what a user wrote: allocated in a way that can fail with an error, never by aborting.

use crate::error::Problem;

/// A vector of so many equal values.
///
/// # Errors
/// With the number of bytes that cannot be allocated, and what for.
pub fn filled<T: Clone>(value: T, count: usize, what: &str) -> Result<Vec<T>, Problem> {
    let mut values = reserved(count, what)?;
    values.resize(count, value);
    Ok(values)
}

/// An empty vector with room for so many values.
///
/// # Errors
/// With the number of bytes that cannot be allocated, and what for.
pub fn reserved<T>(count: usize, what: &str) -> Result<Vec<T>, Problem> {
    let mut values = Vec::new();
    let lacking = |_| {
        let bytes = count as f64 * size_of::<T>() as f64;
        let message = format!("{what} would need {:.3} GB of memory, more than there is", bytes / 1e9);
        Problem::new("memory", message).hint("give less at a time")
    };
    values.try_reserve_exact(count).map_err(lacking)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_memory_is_an_error() {
        assert_eq!(filled(7_u8, 3, "three bytes"), Ok(vec![7; 3]));
        let refused = filled(0.0_f64, usize::MAX / 8, "a replay").unwrap_err();
        assert_eq!(refused.code, "memory");
        assert!(refused.message.starts_with("a replay would need 18446744073.710 GB"), "{}", refused.message);
    }
}
