//! A space of points: axes of values; a point is a mixed-radix integer into it.

use serde::Deserialize;

use crate::batch::serve::Requests;
use crate::engine::{Point, Points};
use crate::error::{Problem, Problems};
use crate::hardware::dtype::dtype;
use crate::input::run_options::Running;
use crate::numeric::lanes::LANES;
use crate::phase::Phases;

/// Values of each axis; the last one varies fastest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceSpec {
    /// Positions in the plan's models.
    pub model: Vec<u32>,
    /// Positions in the plan's GPUs.
    pub gpu: Vec<u32>,
    /// Weight formats; none is the default of the spec.
    pub weight_dtype: Vec<Option<String>>,
    /// Cache formats; none is the default of the spec.
    pub kv_dtype: Vec<Option<String>>,
    /// Tensor parallelism.
    pub tp: Vec<u32>,
    /// Pipeline stages.
    pub pp: Vec<u32>,
    /// Attention data parallelism.
    pub dp: Vec<u32>,
    /// Expert parallelism.
    pub ep: Vec<u32>,
    /// Context parallelism.
    #[serde(default = "first_degree")]
    pub cp: Vec<u32>,
    /// Stages of overlap; 0 leaves it to the spec.
    #[serde(default = "unset")]
    pub overlap_stages: Vec<u16>,
    /// SMs of overlapped collectives.
    #[serde(default = "unset")]
    pub overlap_sms: Vec<u16>,
    /// Phases of overlap.
    #[serde(default = "default_value")]
    pub overlap_where: Vec<Phases>,
    /// Sequence parallelism.
    #[serde(default = "default_value")]
    pub sequence_parallel: Vec<bool>,
    /// Norms inside the all-reduce before them.
    #[serde(default = "default_value")]
    pub fused_norm: Vec<bool>,
    /// SM clock; 0 is as measured.
    #[serde(default = "unset")]
    pub sm_clock_mhz: Vec<u16>,
    /// Power cap; 0 is none.
    #[serde(default = "unset")]
    pub power_cap_w: Vec<u16>,
    /// How tokens choose experts; 0 leaves it to the spec, else a law of the plan, from 1 on.
    #[serde(default = "unset")]
    pub routing: Vec<u16>,
    /// Placement of experts, by code.
    #[serde(default = "unset")]
    pub placement: Vec<u16>,
    /// Sequences.
    pub batch: Vec<f64>,
    /// Prompt tokens.
    pub prompt_tokens: Vec<f64>,
    /// Output tokens.
    pub output_tokens: Vec<f64>,
}

fn first_degree() -> Vec<u32> {
    vec![1]
}

fn unset() -> Vec<u16> {
    vec![0]
}

fn default_value<X: Default>() -> Vec<X> {
    vec![X::default()]
}

/// Number of axes, and of those before the batch.
pub const AXES: usize = 21;
const MAPPED: usize = AXES - 3;

/// A checked space.
#[derive(Clone, Debug)]
pub struct Space {
    spec: SpaceSpec,
    weights: Vec<Option<u8>>,
    cache: Vec<Option<u8>>,
    size: u64,
}

impl Space {
    /// Axis names, slowest first.
    pub const AXES: [&'static str; AXES] = [
        "model",
        "gpu",
        "weight_dtype",
        "kv_dtype",
        "tp",
        "pp",
        "dp",
        "ep",
        "cp",
        "overlap_stages",
        "overlap_sms",
        "overlap_where",
        "sequence_parallel",
        "fused_norm",
        "sm_clock_mhz",
        "power_cap_w",
        "routing",
        "placement",
        "batch",
        "prompt_tokens",
        "output_tokens",
    ];

    /// Reads and checks a space.
    ///
    /// # Errors
    /// An empty axis, a value out of range or an unknown format.
    pub fn from_json(text: &str, models: usize, gpus: usize) -> Result<Self, Problems> {
        let spec: SpaceSpec =
            serde_json::from_str(text).map_err(|e| Problem::new("form", e.to_string()).inside(&["space".into()]))?;
        let mut problems = Problems::default();
        let lengths = lengths(&spec);
        for (axis, length) in Self::AXES.iter().zip(lengths) {
            if length == 0 {
                problems.push(
                    Problem::new("empty-axis", format!("axis `{axis}` has no value"))
                        .inside(&["space".into(), (*axis).into()]),
                );
            }
        }
        let mut at_least_one = |axis: &'static str, bad: bool| {
            if bad {
                problems.push(
                    Problem::new("axis-value", format!("axis `{axis}` needs values of at least 1"))
                        .inside(&["space".into(), axis.into()]),
                );
            }
        };
        at_least_one("tp", spec.tp.contains(&0));
        at_least_one("pp", spec.pp.contains(&0));
        at_least_one("dp", spec.dp.contains(&0));
        at_least_one("ep", spec.ep.contains(&0));
        at_least_one("cp", spec.cp.contains(&0));
        let bad = |values: &[f64]| values.iter().any(|v| !(1.0..=1e12).contains(v) || v.fract() != 0.0);
        at_least_one("batch", bad(&spec.batch));
        at_least_one("prompt_tokens", bad(&spec.prompt_tokens));
        at_least_one("output_tokens", bad(&spec.output_tokens));
        at_least_one("model", spec.model.iter().any(|m| *m as usize >= models));
        at_least_one("gpu", spec.gpu.iter().any(|g| *g as usize >= gpus));
        let mut formats = |axis: &'static str, names: &[Option<String>]| -> Vec<Option<u8>> {
            let mut codes = Vec::new();
            for name in names {
                let read = name.as_deref().map(dtype).transpose().map_err(Problems::from);
                let read = problems.gather(&["space".into(), axis.into()], read);
                codes.extend(read.map(|format| format.map(|format| format.code)));
            }
            codes
        };
        let weights = formats("weight_dtype", &spec.weight_dtype);
        let cache = formats("kv_dtype", &spec.kv_dtype);
        let size = lengths.iter().try_fold(1_u64, |product, length| product.checked_mul(*length as u64));
        let Some(size) = size else {
            return Err(Problem::new("too-large", "a space has at most 2^64 points").inside(&["space".into()]).into());
        };
        problems.or(Self { spec, weights, cache, size })
    }

    /// Number of points.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Consecutive points that differ in batch and lengths only.
    pub fn run(&self) -> u64 {
        lengths(&self.spec)[MAPPED..].iter().map(|length| *length as u64).product()
    }

    /// Consecutive points that differ in lengths only.
    pub fn plane(&self) -> u64 {
        lengths(&self.spec)[MAPPED + 1..].iter().map(|length| *length as u64).product()
    }

    /// Consecutive points that differ in output tokens only.
    pub fn row(&self) -> u64 {
        self.spec.output_tokens.len() as u64
    }

    /// Prompt tokens and output tokens.
    pub fn lengths(&self) -> [&[f64]; 2] {
        [&self.spec.prompt_tokens, &self.spec.output_tokens]
    }

    /// Batch of a point.
    pub fn batch(&self, index: u64) -> f64 {
        self.spec.batch[(index / self.plane() % self.spec.batch.len() as u64) as usize]
    }

    /// Batch, prompt tokens and output tokens of a point.
    pub fn sizes(&self, index: u64) -> [f64; 3] {
        let row = self.row();
        let prompts = self.spec.prompt_tokens.len() as u64;
        let (output, rest) = (index % row, index / row);
        let (prompt, rest) = (rest % prompts, rest / prompts);
        let batch = rest % self.spec.batch.len() as u64;
        [
            self.spec.batch[batch as usize],
            self.spec.prompt_tokens[prompt as usize],
            self.spec.output_tokens[output as usize],
        ]
    }

    /// Requests of up to 64 consecutive points of one run; lanes past the last repeat it.
    pub fn requests(&self, first: u64, points: usize) -> Requests {
        let (prompts, outputs) = (&self.spec.prompt_tokens, &self.spec.output_tokens);
        let local = (first % self.run()) as usize;
        let (mut output, rest) = (local % outputs.len(), local / outputs.len());
        let (mut prompt, mut batch) = (rest % prompts.len(), rest / prompts.len());
        let mut requests = Requests { batch: [0.0; LANES], prompt_tokens: [0.0; LANES], output_tokens: [0.0; LANES] };
        for lane in 0..LANES {
            requests.batch[lane] = self.spec.batch[batch];
            requests.prompt_tokens[lane] = prompts[prompt];
            requests.output_tokens[lane] = outputs[output];
            if lane + 1 < points {
                output += 1;
                if output == outputs.len() {
                    (output, prompt) = (0, prompt + 1);
                }
                if prompt == prompts.len() {
                    (prompt, batch) = (0, batch + 1);
                }
            }
        }
        requests
    }

    /// Digits of a point, slowest axis first.
    pub fn digits(&self, index: u64) -> [usize; AXES] {
        let lengths = lengths(&self.spec);
        let mut digits = [0; AXES];
        let mut rest = index;
        for (digit, length) in digits.iter_mut().zip(lengths).rev() {
            *digit = (rest % length as u64) as usize;
            rest /= length as u64;
        }
        digits
    }

    /// Number of values of each axis.
    pub fn digits_end(&self) -> [usize; AXES] {
        lengths(&self.spec)
    }

    /// The point of an index below [`Space::size`].
    pub fn point(&self, index: u64) -> Point {
        let d = self.digits(index);
        let spec = &self.spec;
        Point {
            model: spec.model[d[0]],
            gpu: spec.gpu[d[1]],
            weights: self.weights[d[2]],
            cache: self.cache[d[3]],
            tp: spec.tp[d[4]],
            pp: spec.pp[d[5]],
            dp: spec.dp[d[6]],
            ep: spec.ep[d[7]],
            cp: spec.cp[d[8]],
            running: Running {
                overlap_stages: spec.overlap_stages[d[9]],
                overlap_sms: spec.overlap_sms[d[10]],
                overlap_where: spec.overlap_where[d[11]],
                sequence_parallel: spec.sequence_parallel[d[12]],
                fused_norm: spec.fused_norm[d[13]],
                sm_clock_mhz: spec.sm_clock_mhz[d[14]],
                power_cap_w: spec.power_cap_w[d[15]],
                routing: spec.routing[d[16]],
                placement: spec.placement[d[17]],
            },
            batch: spec.batch[d[18]],
            prompt_tokens: spec.prompt_tokens[d[19]],
            output_tokens: spec.output_tokens[d[20]],
        }
    }
}

fn lengths(spec: &SpaceSpec) -> [usize; AXES] {
    [
        spec.model.len(),
        spec.gpu.len(),
        spec.weight_dtype.len(),
        spec.kv_dtype.len(),
        spec.tp.len(),
        spec.pp.len(),
        spec.dp.len(),
        spec.ep.len(),
        spec.cp.len(),
        spec.overlap_stages.len(),
        spec.overlap_sms.len(),
        spec.overlap_where.len(),
        spec.sequence_parallel.len(),
        spec.fused_norm.len(),
        spec.sm_clock_mhz.len(),
        spec.power_cap_w.len(),
        spec.routing.len(),
        spec.placement.len(),
        spec.batch.len(),
        spec.prompt_tokens.len(),
        spec.output_tokens.len(),
    ]
}

/// Points of a space, by index.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The space.
    pub space: &'a Space,
    /// Indices below its size.
    pub indices: &'a [u64],
}

impl Points for Listed<'_> {
    type Key = u64;

    fn rows(&self) -> usize {
        self.indices.len()
    }

    fn read(&self, row: usize) -> (u64, [f64; 3]) {
        (self.indices[row] / self.space.run(), self.space.sizes(self.indices[row]))
    }

    fn point(&self, row: usize) -> Point {
        self.space.point(self.indices[row])
    }
}
