//! Histograms: counts in bins of equal relative width, 128 to each doubling.

use crate::numeric::lanes::{LANES, Lane};

/// Bits of mantissa a bin keeps: its width is at most 1/128 of its value.
const BITS: u32 = 7;
const SHIFT: u32 = 52 - BITS;

/// Counts by bin.
#[derive(Clone, Debug, Default)]
pub struct Bins {
    counts: Vec<u64>,
}

impl Bins {
    /// Counts those values of a block that are alive.
    pub fn count(&mut self, values: &Lane, alive: &[u64; LANES]) {
        self.counts.resize(1 << (64 - SHIFT), 0);
        for i in 0..LANES {
            // Values are never negative but for rounding.
            let value = if values[i] > 0.0 { values[i] } else { 0.0 };
            if let Some(count) = self.counts.get_mut((value.to_bits() >> SHIFT) as usize) {
                *count += alive[i];
            }
        }
    }

    /// Adds to a bin.
    pub fn add(&mut self, bin: u64, count: u64) {
        self.counts.resize(1 << (64 - SHIFT), 0);
        if let Some(counted) = self.counts.get_mut(bin as usize) {
            *counted += count;
        }
    }

    /// Takes over another.
    pub fn merge(&mut self, other: Self) {
        if self.counts.is_empty() {
            self.counts = other.counts;
            return;
        }
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count += other);
    }

    /// Bins that are not empty: number and count.
    pub fn members(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, count)| (bin as u64, *count))
    }

    /// Lowest value of a bin.
    pub fn low(bin: u64) -> f64 {
        f64::from_bits(bin << SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_is_narrow() {
        let mut bins = Bins::default();
        bins.count(&[0.0371; LANES], &[1; LANES]);
        let (bin, count) = bins.members().next().unwrap_or_default();
        assert_eq!(count, LANES as u64);
        assert!(Bins::low(bin) <= 0.0371 && 0.0371 < Bins::low(bin + 1));
        assert!(Bins::low(bin + 1) / Bins::low(bin) <= 1.0 + 1.0 / 128.0);
    }
}
