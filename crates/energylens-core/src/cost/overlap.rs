//! Kernels and collectives at the same time.

use super::collective::Collective;
use super::kernel::{Env, How, Timed};
use crate::hardware::link::Contention;
use crate::numeric::lanes::Lane;

impl Contention {
    /// Seconds of a kernel and a collective that start together: `max(C + o·κ_c/(1+κ_c), R + o·κ_r/(1+κ_r))` with
    /// `o = min(C·(1+κ_c), R·(1+κ_r))`.
    #[inline(always)]
    pub fn both(self, compute: f64, collective: f64) -> f64 {
        let (slow_c, slow_r) = (1.0 + self.compute, 1.0 + self.communication);
        let (c, r) = (compute * slow_c, collective * slow_r);
        let o = if c < r { c } else { r };
        let (c, r) = (compute + o * (self.compute / slow_c), collective + o * (self.communication / slow_r));
        if c > r { c } else { r }
    }
}

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Each stage's collective after its kernel: `C + (S−1)·both(C, R) + R`.
    Stages,
    /// Micro-batches taking turns: `S·both(C, R)`.
    Turns,
    /// A ring beside one kernel: `both(C, R)`.
    Ring,
}

/// Kernels with the collectives that run beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlapped {
    /// Kernels, one after the other, as they run beside communication.
    pub kernels: Vec<Timed>,
    /// Collectives, one after the other.
    pub collectives: Vec<Collective>,
    /// Who waits for whom.
    pub order: Order,
    /// Stages, micro-batches; of a ring, messages.
    pub stages: f64,
    /// How many times slower than on the SMs they want the collectives are inside a node.
    pub slower: f64,
    /// Share of the communication's watts drawn.
    pub drawing: f64,
    /// Divided environment of the stages; none is the whole one.
    pub env: Option<usize>,
    /// Contention.
    pub contention: Contention,
}

/// Seconds of overlapped kernels and collectives.
#[derive(Clone, Debug)]
pub struct OverlappedSeconds<const L: usize> {
    /// Kernels.
    pub kernel_s: Lane<L>,
    /// The rest.
    pub exposed_s: Lane<L>,
    /// Seconds of drawing the communication's watts, besides the exposed ones.
    pub hidden_s: Lane<L>,
    /// Seconds of kernels that follow the clock.
    pub clocked_s: Lane<L>,
}

impl Overlapped {
    /// Whether its time depends on a variable, given as a bit of the monomials.
    pub fn sees(&self, bit: u8) -> bool {
        self.kernels.iter().any(|kernel| kernel.sees(bit)) || self.collectives.iter().any(|c| c.message.sees(bit))
    }

    /// Seconds of the collectives of one stage; of a ring, of all its messages.
    #[inline(always)]
    pub fn collective_s<const L: usize>(&self, env: &Env<L>) -> Lane<L> {
        let (part, laps) = if self.order == Order::Ring { (1.0, self.stages) } else { (1.0 / self.stages, 1.0) };
        let mut out = [0.0; L];
        for collective in &self.collectives {
            let seconds = collective.seconds(env, part, self.slower);
            for i in 0..L {
                out[i] += laps * seconds[i];
            }
        }
        out
    }

    /// Their seconds together.
    #[inline(always)]
    pub fn seconds<const L: usize>(&self, env: &Env<L>, divided: &[Env<L>], how: How) -> OverlappedSeconds<L> {
        let slice = self.env.and_then(|at| divided.get(at)).unwrap_or(env);
        let slices = if self.order == Order::Ring { 1.0 } else { self.stages };
        let (mut compute, mut clocked_s) = ([0.0; L], [0.0; L]);
        for kernel in &self.kernels {
            let seconds = kernel.seconds(slice, how);
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
                    out.hidden_s[i] = self.drawing * self.stages * r - out.exposed_s[i];
                }
                Order::Turns => {
                    out.kernel_s[i] = self.stages * c;
                    out.exposed_s[i] = self.stages * more;
                    out.hidden_s[i] = self.drawing * self.stages * r - out.exposed_s[i];
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
