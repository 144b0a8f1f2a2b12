//! The functions an equation may apply, and what they cost.

/// A function of one or more tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Sum of its arguments.
    Add,
    /// Product, element by element.
    Mul,
    /// Product with a constant.
    Scale,
    /// max(x, 0).
    Relu,
    /// 1/(1 + e^-x).
    Sigmoid,
    /// x·sigmoid(x).
    Silu,
    /// Gaussian error linear unit.
    Gelu,
    /// Clamped, scaled silu.
    Swiglu,
    /// RMS or layer norm over the last rank, with its weight.
    Norm,
    /// Softmax over the last rank.
    Softmax,
    /// Rotary position embedding.
    Rope,
    /// The largest values along the last rank, normalised.
    Topk,
    /// Draws the next token from logits.
    Sample,
    /// Row look-up in a table.
    Embed,
    /// The last new token only.
    Last,
}

impl Function {
    /// All functions with their names, in the order of the documentation.
    pub const ALL: [(&'static str, Self); 15] = [
        ("add", Self::Add),
        ("mul", Self::Mul),
        ("scale", Self::Scale),
        ("relu", Self::Relu),
        ("sigmoid", Self::Sigmoid),
        ("silu", Self::Silu),
        ("gelu", Self::Gelu),
        ("swiglu", Self::Swiglu),
        ("norm", Self::Norm),
        ("softmax", Self::Softmax),
        ("rope", Self::Rope),
        ("topk", Self::Topk),
        ("sample", Self::Sample),
        ("embed", Self::Embed),
        ("last", Self::Last),
    ];

    /// The function of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, function)| *function)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, f)| *f == self).map_or("", |(name, _)| name)
    }

    /// Vector FLOPs for each element of its largest argument (c_f of Eq. 2.2).
    pub fn flops_per_element(self) -> f64 {
        match self {
            Self::Embed | Self::Last => 0.0,
            Self::Add | Self::Mul | Self::Scale | Self::Relu | Self::Sample => 1.0,
            Self::Topk => 2.0,
            Self::Rope => 3.0,
            Self::Sigmoid | Self::Norm => 4.0,
            Self::Silu | Self::Softmax => 5.0,
            Self::Gelu | Self::Swiglu => 8.0,
        }
    }

    /// Whether it needs all of the last rank of its first argument, so that a split one is gathered.
    pub fn reduces_last_rank(self) -> bool {
        matches!(self, Self::Norm | Self::Softmax | Self::Topk | Self::Sample)
    }

    /// Whether it reads only as many elements as its result has.
    pub fn selects(self) -> bool {
        matches!(self, Self::Embed | Self::Last)
    }

    /// Whether its result may lack ranks of its argument.
    pub fn drops_ranks(self) -> bool {
        matches!(self, Self::Embed | Self::Last | Self::Sample)
    }
}
