//! Kernels and collectives whose seconds are nonlinear in the tokens of a pass: each different one is evaluated once, and
//! counted by the pipeline stages that run it.

use super::collective::Collective;
use super::env::Env;
use super::overlap::Overlapped;
use super::timing::{TimedKernel, TimingOptions};
use crate::numeric::lanes::{LANES, Lane};

/// Number of sums of a stage: five of joules, then four of seconds.
///
/// The last, seconds that follow the clock, is there only where a lock or a cap needs it, the one before only where
/// something is overlapped.
pub const SUMS: usize = 9;
/// Joules of compute: FLOPs and on-chip bytes (Eq. 8.3).
pub const COMPUTE_J: usize = 0;
/// Joules of weight bytes.
pub const WEIGHTS_J: usize = 1;
/// Joules of cache bytes.
pub const CACHE_J: usize = 2;
/// Joules of activation bytes.
pub const ACTIVATIONS_J: usize = 3;
/// Joules of links.
pub const LINK_J: usize = 4;
/// Number of joules, which are the first of the sums.
pub const JOULES: usize = 5;
/// Seconds of kernels.
pub const KERNEL_S: usize = 5;
/// Seconds of communication that no kernel hides.
pub const EXPOSED_S: usize = 6;
/// Seconds at `communication_w` besides the exposed ones (Eq. 7.14).
pub const HIDDEN_S: usize = 7;
/// Seconds of kernels that follow the clock (Eq. 11.5).
pub const CLOCKED_S: usize = 8;

/// Sums of one stage, by [`SUMS`].
pub type Sums<const L: usize = LANES> = [Lane<L>; SUMS];

/// Number of the sums that may be nonlinear: the seconds.
pub const NONLINEAR_SUMS: usize = SUMS - JOULES;

/// Nonlinear seconds of one kind of stage, from [`KERNEL_S`] on.
pub type NonlinearSums<const L: usize = LANES> = [Lane<L>; NONLINEAR_SUMS];

/// Different items, each with its number of runs by kind of stage.
#[derive(Clone, Debug)]
pub(super) struct Counted<X> {
    /// Items, and the runs of each by kind of stage; a kind beyond the list has none.
    items: Vec<(X, Vec<f64>)>,
}

impl<X> Default for Counted<X> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<X> Counted<X> {
    fn bytes(&self, of: impl Fn(&X) -> usize) -> usize {
        let item = |(item, counts): &(X, Vec<f64>)| {
            size_of::<(X, Vec<f64>)>() + of(item) + counts.capacity() * size_of::<f64>()
        };
        self.items.iter().map(item).sum()
    }
}

impl<X: PartialEq> Counted<X> {
    /// Adds `times` runs of an item to a kind of stage; equal items are one.
    pub(super) fn add(&mut self, item: X, stage: usize, times: f64) {
        let at = self.items.iter().position(|(other, _)| *other == item).unwrap_or_else(|| {
            self.items.push((item, Vec::new()));
            self.items.len() - 1
        });
        let counts = &mut self.items[at].1;
        counts.resize(counts.len().max(stage + 1), 0.0);
        counts[stage] += times;
    }
}

/// Everything whose seconds are nonlinear: kernels, collectives, and both at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Nonlinear {
    pub(super) timed: Counted<TimedKernel>,
    pub(super) collectives: Counted<Collective>,
    pub(super) overlapped: Counted<Overlapped>,
}

impl Nonlinear {
    /// Bytes it holds in memory, about; with the tables it will have, if it is used with them.
    pub(super) fn bytes(&self, tables: bool) -> usize {
        let timed = self.timed.bytes(|timed| timed.bytes(tables));
        let collectives = self.collectives.bytes(Collective::bytes);
        let overlapped = self.overlapped.bytes(|overlapped| {
            let kernels = overlapped.kernels.iter().map(|timed| size_of::<TimedKernel>() + timed.bytes(tables));
            let collectives =
                overlapped.collectives.iter().map(|collective| size_of::<Collective>() + collective.bytes());
            kernels.chain(collectives).sum()
        });
        timed + collectives + overlapped
    }

    /// Adds the seconds of each kind of stage to `out`.
    #[inline(always)]
    pub(super) fn evaluate<const L: usize>(
        &self,
        env: &Env<L>,
        divided: &[Env<L>],
        options: TimingOptions,
        out: &mut [NonlinearSums<L>],
    ) {
        for (timed, counts) in &self.timed.items {
            let seconds = timed.seconds(env, options);
            add_counted(counts, &seconds.kernel_s, KERNEL_S, out);
            if options.clocked {
                add_counted(counts, &seconds.clocked_s, CLOCKED_S, out);
            }
        }
        for (collective, counts) in &self.collectives.items {
            add_counted(counts, &collective.seconds(env, 1.0, 1.0), EXPOSED_S, out);
        }
        for (overlapped, counts) in &self.overlapped.items {
            let seconds = overlapped.seconds(env, divided, options);
            add_counted(counts, &seconds.kernel_s, KERNEL_S, out);
            add_counted(counts, &seconds.exposed_s, EXPOSED_S, out);
            add_counted(counts, &seconds.hidden_s, HIDDEN_S, out);
            if options.clocked {
                add_counted(counts, &seconds.clocked_s, CLOCKED_S, out);
            }
        }
    }
}

#[inline(always)]
fn add_counted<const L: usize>(counts: &[f64], seconds: &Lane<L>, which: usize, out: &mut [NonlinearSums<L>]) {
    for (count, sums) in counts.iter().zip(out) {
        if *count > 0.0 {
            add_times(*count, seconds, &mut sums[which - JOULES]);
        }
    }
}

/// Adds `times` a lane to a sum.
#[inline(always)]
pub(super) fn add_times<const L: usize>(times: f64, lane: &Lane<L>, sum: &mut Lane<L>) {
    for i in 0..L {
        sum[i] += times * lane[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::lanes::Basis;
    use crate::numeric::lanes::ZERO;
    use crate::numeric::shape::Poly;

    #[test]
    fn equal_parts_are_kept_once() {
        let mut list = Counted::default();
        for (item, stage) in [(7, 0), (8, 0), (7, 2)] {
            list.add(item, stage, 1.5);
        }
        assert_eq!(list.items, [(7, vec![1.5, 0.0, 1.5]), (8, vec![1.5])]);
        let basis = Basis::new(&[2.0; LANES], &[3.0; LANES], &ZERO, &ZERO);
        let mut lane = [9.0; LANES];
        basis.set(&Poly::monomial(3, 5.0), &mut lane);
        assert_eq!(lane[0], 30.0);
    }
}
