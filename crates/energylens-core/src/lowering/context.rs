//! What all parts of the lowering start from: a model, a GPU, a mesh, formats and run options, and what they select.

use crate::cost::env::Experts;
use crate::einsum::count::Work;
use crate::graph::flow::{Kind, Move};
use crate::graph::{Class, Graph, Line};
use crate::hardware::dtype::{Dtype, dtype};
use crate::hardware::kernels::TimeSet;
use crate::hardware::profile::Profile;
use crate::hardware::uncertainty::Range;
use crate::input::run_options::Running;
use crate::lowering::effective::effective;
use crate::lowering::mesh::Mesh;
use crate::lowering::parts::Formats;
use crate::phase::Phase;

/// Format of tensors that neither the model nor the point gives one.
const DEFAULT_FORMAT: Dtype = Dtype::BF16;

/// Profile key of the coefficients that stand in for those of formats without any.
const FALLBACK_COEFFICIENTS: &str = "bf16";

/// Bytes of an element below which a format is narrow; between those of 8 bits with scales and 16 bits.
const NARROW_BYTES: f64 = 1.5;

/// Inputs of the lowering.
pub struct Lowering<'a> {
    /// Model.
    pub graph: &'a Graph,
    /// GPU, at its locked clock if it is locked.
    pub profile: &'a Profile,
    /// Mesh.
    pub mesh: Mesh,
    /// Formats the point sets.
    pub formats: Formats,
    /// Run options of the point.
    pub running: Running,
    /// Routing constants; none without experts.
    pub experts: Option<Experts>,
}

impl Lowering<'_> {
    /// Format of a tensor. The model's spec decides by the tensor's name; then the point, for weights and cache; then the
    /// spec by the kind of tensor (`weights`, `cache`, `activations`).
    pub(super) fn format(&self, name: &str, kind: &str) -> Dtype {
        let in_spec = |key: &str| self.graph.dtypes.get(key).and_then(|d| dtype(d).ok());
        let of_point = match kind {
            "weights" => self.formats.weights,
            "cache" => self.formats.cache,
            _ => None,
        };
        in_spec(name).or(of_point).or_else(|| in_spec(kind)).unwrap_or(DEFAULT_FORMAT)
    }

    /// Format of activations; they have no names in a spec's formats.
    pub(super) fn activation_format(&self) -> Dtype {
        self.format("", "activations")
    }

    /// Bytes of an element of a tensor that is read or written.
    pub(super) fn bytes_of(&self, moved: &Move) -> f64 {
        let kind = match moved.kind {
            Kind::Weight | Kind::ExpertWeight => "weights",
            Kind::Cache => "cache",
            Kind::Activation => "activations",
        };
        self.format(&moved.name, kind).bytes
    }

    /// Format that decides a product's coefficients: of its weight, or of its activations if it has none.
    pub(super) fn operand(&self, line: &Line) -> Dtype {
        match &line.weight {
            Some(weight) => self.format(weight, "weights"),
            None => self.activation_format(),
        }
    }

    /// Coefficients of a kernel whose first product has an operand of `format`, and whether they were fitted for it.
    ///
    /// Formats without a fit use that of the arithmetic they are computed in, else that of 16 bits.
    pub(super) fn time_set(&self, class: Class, phase: Phase, format: Dtype) -> (&TimeSet, bool) {
        let kernels = &self.profile.kernels;
        let sets = match (class, phase) {
            (Class::Elementwise, _) => return (&kernels.elementwise, true),
            (Class::Attention, Phase::Prefill) => &kernels.attention_prefill,
            (Class::Attention, Phase::Decode) => &kernels.attention_decode,
            (Class::GroupedGemm, _) => &kernels.grouped_gemm,
            (Class::Gemm, _) => &kernels.gemm,
        };
        let fitted = sets.get(format.name);
        let arithmetic = self.profile.arithmetic(format).name();
        let set = fitted.or_else(|| sets.get(arithmetic)).or_else(|| sets.get(FALLBACK_COEFFICIENTS));
        // fp32 and fp16 are computed in 16-bit arithmetic, so the fit of bf16 is theirs too.
        let known = fitted.is_some() || matches!(format.name, "fp32" | "fp16");
        (set.unwrap_or(&kernels.elementwise), known)
    }

    /// Class and format of every matrix product with a weight.
    fn weight_products(&self) -> impl Iterator<Item = (Class, Dtype)> {
        let kernels = self.graph.blocks.iter().flat_map(|block| &block.kernels);
        kernels.flat_map(|kernel| {
            let matrix =
                kernel.lines.iter().filter(|line| matches!(line.work, Work::Matrix(_)) && line.weight.is_some());
            matrix.map(|line| (kernel.class, self.operand(line)))
        })
    }

    /// Variance of all joules that is common to all causes, relative to their square (Eq. 10.1): of every model, more for models with
    /// experts and for weights of 8 bits and fewer, which measurements miss by more.
    pub(super) fn common_variance(&self) -> f64 {
        let uncertainty = &self.profile.uncertainty;
        let routed = if self.graph.routed.is_some() { uncertainty.routed } else { 0.0 };
        let narrow = self.weight_products().any(|(_, format)| format.bytes < NARROW_BYTES);
        let narrow = if narrow { uncertainty.narrow } else { 0.0 };
        uncertainty.common * uncertainty.common + routed * routed + narrow * narrow
    }

    /// Largest batch and context that the measurements behind the fits reach; a batch of 0, so that every point is outside,
    /// for formats, numbers of GPUs and run options that were not measured.
    pub(super) fn range(&self) -> Range {
        let range = self.profile.range;
        let gemm = |class| matches!(class, Class::Gemm | Class::GroupedGemm);
        let mut products = self.weight_products().filter(|(class, _)| gemm(*class));
        let formats_known = products.all(|(class, format)| self.time_set(class, Phase::Decode, format).1);
        let options_known = self.mesh.cp == 1 && effective(self.running, self.profile).measured();
        let measured = formats_known && options_known && f64::from(self.mesh.gpus()) <= range.gpus;
        if measured { range } else { Range { batch: 0.0, ..range } }
    }
}
