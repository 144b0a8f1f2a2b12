//! Kernels and collectives at the same time: stages, micro-batches and rings (Eq. 7.10, 7.12, 7.13, 11.1).

use super::collective::Collective;
use super::env::Env;
use super::timing::{TimedKernel, TimingOptions};
use crate::hardware::link::Contention;
use crate::numeric::lanes::Lane;

impl Contention {
    /// Seconds until a kernel and a collective that start together have both ended (Eq. 7.10).
    ///
    /// `compute` and `collective` are the seconds of each alone.
    #[inline(always)]
    pub fn both(self, compute: f64, collective: f64) -> f64 {
        let (slow_c, slow_r) = (1.0 + self.compute, 1.0 + self.communication);
        let (c, r) = (compute * slow_c, collective * slow_r);
        let o = if c < r { c } else { r };
        let (c, r) = (compute + o * (self.compute / slow_c), collective + o * (self.communication / slow_r));
        if c > r { c } else { r }
    }
}

/// How kernels and the collectives that run at the same time take turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Each stage's collective runs with the kernel of the next stage: `C + (Ω−1)·both(C, R) + R` (Eq. 7.13).
    Stages,
    /// The collectives of one micro-batch run with the kernels of another: `Ω·both(C, R)` (Eq. 11.1).
    Turns,
    /// Messages around a ring run with one kernel: `both(C, R)` (Eq. 7.12).
    Ring,
}

/// Kernels with the collectives that run at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlapped {
    /// Kernels, one after the other, on the SMs that communication leaves.
    pub kernels: Vec<TimedKernel>,
    /// Collectives, one after the other.
    pub collectives: Vec<Collective>,
    /// How they take turns.
    pub order: Order,
    /// Stages or micro-batches (Ω); of a ring, its messages.
    pub stages: f64,
    /// Seconds of the collectives' bytes inside a node over those on the SMs they want (Eq. 7.11).
    pub slowdown: f64,
    /// Share of `communication_w` that they draw on their SMs (Eq. 7.14).
    pub power_share: f64,
    /// Which environment has the rows of one stage; none: the undivided one.
    pub env: Option<usize>,
    /// How much both slow each other down.
    pub contention: Contention,
}

/// Seconds of overlapped kernels and collectives.
#[derive(Clone, Debug)]
pub struct OverlappedSeconds<const L: usize> {
    /// Seconds of kernels.
    pub kernel_s: Lane<L>,
    /// Seconds of communication that no kernel hides.
    pub exposed_s: Lane<L>,
    /// Seconds at `communication_w` besides the exposed ones (Eq. 7.14), negative where less than all of it is drawn.
    pub hidden_s: Lane<L>,
    /// Seconds of kernels that follow the clock.
    pub clocked_s: Lane<L>,
}

impl Overlapped {
    /// Whether its time depends on a variable, by its bit in the monomials.
    pub fn depends_on(&self, bit: u8) -> bool {
        self.kernels.iter().any(|kernel| kernel.depends_on(bit))
            || self.collectives.iter().any(|c| c.message.depends_on(bit))
    }

    /// Seconds of the collectives of one stage; of a ring, of all its messages.
    #[inline(always)]
    pub fn collective_s<const L: usize>(&self, env: &Env<L>) -> Lane<L> {
        let (part, laps) = if self.order == Order::Ring { (1.0, self.stages) } else { (1.0 / self.stages, 1.0) };
        let mut out = [0.0; L];
        for collective in &self.collectives {
            let seconds = collective.seconds(env, part, self.slowdown);
            for i in 0..L {
                out[i] += laps * seconds[i];
            }
        }
        out
    }

    /// Seconds of all stages (Eq. 7.12, 7.13, 11.1); `divided` are the environments of stages.
    #[inline(always)]
    pub fn seconds<const L: usize>(
        &self,
        env: &Env<L>,
        divided: &[Env<L>],
        options: TimingOptions,
    ) -> OverlappedSeconds<L> {
        let slice = self.env.and_then(|at| divided.get(at)).unwrap_or(env);
        let slices = if self.order == Order::Ring { 1.0 } else { self.stages };
        let (mut compute, mut clocked_s) = ([0.0; L], [0.0; L]);
        for kernel in &self.kernels {
            let seconds = kernel.seconds(slice, options);
            for i in 0..L {
                compute[i] += seconds.kernel_s[i];
                clocked_s[i] += slices * seconds.clocked_s[i];
            }
        }
        let collective = self.collective_s(env);
        let mut out = OverlappedSeconds { kernel_s: [0.0; L], exposed_s: [0.0; L], hidden_s: [0.0; L], clocked_s };
        for i in 0..L {
            let (c, r) = (compute[i], collective[i]);
            let more = self.contention.both(c, r) - c;
            match self.order {
                Order::Stages => {
                    out.kernel_s[i] = self.stages * c;
                    out.exposed_s[i] = (self.stages - 1.0) * more + r;
                    out.hidden_s[i] = self.power_share * self.stages * r - out.exposed_s[i];
                }
                Order::Turns => {
                    out.kernel_s[i] = self.stages * c;
                    out.exposed_s[i] = self.stages * more;
                    out.hidden_s[i] = self.power_share * self.stages * r - out.exposed_s[i];
                }
                Order::Ring => {
                    out.kernel_s[i] = c;
                    out.exposed_s[i] = more;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Contention;

    #[test]
    fn without_contention_the_longer_decides() {
        let free = Contention::default();
        assert_eq!((free.both(2.0, 3.0), free.both(3.0, 2.0), free.both(3.0, 0.0)), (3.0, 3.0, 3.0));
    }

    #[test]
    fn both_go_on_slower_until_one_ends() {
        let contention = Contention { compute: 0.25, communication: 1.0 };
        // The collective needs 2 s beside the kernel, which does 1.6 s of its work in them.
        assert!((contention.both(4.0, 1.0) - (2.0 + 2.4)).abs() < 1e-12);
        // The kernel needs 1.25 s beside the collective, which does half of them.
        assert!((contention.both(1.0, 3.0) - (1.25 + 3.0 - 0.625)).abs() < 1e-12);
        for (c, r) in [(1.0, 1.0), (1.0, 9.0), (9.0, 1.0)] {
            assert!(contention.both(c, r) >= Contention::default().both(c, r));
        }
    }
}
