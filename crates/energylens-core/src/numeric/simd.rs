//! One copy of the hot loops for each vector instruction set, chosen at run time.
//!
//! The copies are compiled from the same code. Rust neither reorders nor contracts floating-point operations, so all give
//! the same bits. This is the only file with `unsafe`: calling a function compiled for instructions that the machine has.
#![allow(unsafe_code, reason = "calls of functions compiled for detected instructions")]

/// Vector instructions the evaluator may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine of the architecture has.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Level {
    /// All levels this machine has, the widest last.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                levels.push(Self::Avx2);
                if avx512() {
                    levels.push(Self::Avx512);
                }
            }
        }
        levels
    }

    /// The widest level this machine has.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512bw")
}

/// Work that is compiled once for each instruction set: `run` and all it calls must be `#[inline(always)]`.
pub trait Work {
    /// Does it.
    fn run(self);
}

/// Does some work with the instructions of `level`; what this machine lacks falls back to the portable copy.
pub fn run<W: Work>(level: Level, work: W) {
    #[cfg(target_arch = "x86_64")]
    {
        if level == Level::Avx512 && avx512() {
            // SAFETY: the instructions were detected on this machine.
            return unsafe { run_avx512(work) };
        }
        if level == Level::Avx2 && std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the instructions were detected on this machine.
            return unsafe { run_avx2(work) };
        }
    }
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Work>(work: W) {
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
fn run_avx512<W: Work>(work: W) {
    work.run();
}
