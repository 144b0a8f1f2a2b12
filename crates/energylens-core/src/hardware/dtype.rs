//! Number formats: bytes an element takes and the arithmetic it is used in.

use crate::error::{Problem, nearest};

/// Arithmetic of a matrix product, as profiles list peaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arithmetic {
    /// 16-bit.
    Bf16,
    /// 8-bit floating point.
    Fp8,
    /// 4-bit floating point.
    Fp4,
}

impl Arithmetic {
    /// Its name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Fp4 => "fp4",
        }
    }
}

/// A storage format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dtype {
    /// Position among all formats.
    pub code: u8,
    /// Name.
    pub name: &'static str,
    /// Bytes per element, scales included.
    pub bytes: f64,
    /// Arithmetic it wants.
    pub arithmetic: Arithmetic,
}

impl Dtype {
    /// The 16-bit format that models are published in.
    pub const BF16: Self = DTYPES[1];
}

/// All formats. Scales: fp8_block one fp32 per 128×128, mxfp4 one byte per 32, nvfp4 one byte per 16, int4 one fp16 per 128.
pub const DTYPES: [Dtype; 9] = [
    Dtype { code: 0, name: "fp32", bytes: 4.0, arithmetic: Arithmetic::Bf16 },
    Dtype { code: 1, name: "bf16", bytes: 2.0, arithmetic: Arithmetic::Bf16 },
    Dtype { code: 2, name: "fp16", bytes: 2.0, arithmetic: Arithmetic::Bf16 },
    Dtype { code: 3, name: "fp8", bytes: 1.0, arithmetic: Arithmetic::Fp8 },
    Dtype { code: 4, name: "fp8_block", bytes: 1.0 + 4.0 / 16384.0, arithmetic: Arithmetic::Fp8 },
    Dtype { code: 5, name: "int8", bytes: 1.0, arithmetic: Arithmetic::Bf16 },
    Dtype { code: 6, name: "mxfp4", bytes: 0.53125, arithmetic: Arithmetic::Bf16 },
    Dtype { code: 7, name: "nvfp4", bytes: 0.5625, arithmetic: Arithmetic::Fp4 },
    Dtype { code: 8, name: "int4", bytes: 0.515_625, arithmetic: Arithmetic::Bf16 },
];

/// The format of that name.
///
/// # Errors
/// An unknown name, with the nearest known one.
pub fn dtype(name: &str) -> Result<Dtype, Problem> {
    DTYPES.iter().copied().find(|d| d.name == name).ok_or_else(|| {
        let names = DTYPES.map(|d| d.name);
        let hint = nearest(name, names)
            .map_or_else(|| format!("known: {}", names.join(", ")), |n| format!("did you mean `{n}`?"));
        Problem::new("unknown-dtype", format!("unknown data type `{name}`")).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::{DTYPES, Dtype};

    #[test]
    fn codes_are_positions() {
        assert_eq!(Dtype::BF16.name, "bf16");
        assert!(DTYPES.iter().enumerate().all(|(position, format)| usize::from(format.code) == position));
    }
}
