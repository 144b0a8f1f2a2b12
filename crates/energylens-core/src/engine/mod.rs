//! Evaluates points: lists of them or ranges of a space, in blocks of lanes, on several threads.

mod bounds;
mod factored;
mod list;
mod range;
mod run;
pub mod space;
mod sums;
mod tables;
mod threads;

use std::sync::Arc;

use crate::error::{Problem, Problems};
use crate::graph::Graph;
use crate::hardware::dtype::DTYPES;
use crate::hardware::profile::Profile;
use crate::input::plan::PlanSpec;
use crate::input::run_options::Running;
use crate::lowering::effective::of_layout;
use crate::lowering::mapping::{Blocks, Formats, LaidOut, Mapping, Settings, Unclocked, blocks};
use crate::lowering::mesh::{Infeasible, Mesh, Reason};
use crate::numeric::simd::Level;
use crate::routing::Law;
use crate::system::cache::Cache;
use crate::system::stop::stopped;

pub use bounds::{Bounds, Span};
pub use factored::evaluations;
pub use list::{Points, Table};
pub use range::Schedule;
pub use run::Visitor;

/// Points of one mapping from which tables of its matrix products pay.
const POINTS_WORTH_A_TABLE: usize = 4096;

/// Default size of the cache of mappings, in bytes: some thousand mappings, or some hundred with tables.
pub const CACHE_BYTES: usize = 256 << 20;

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position in the plan's models.
    pub model: u32,
    /// Position in the plan's GPUs.
    pub gpu: u32,
    /// Code of the weight format; none is the default of the spec.
    pub weights: Option<u8>,
    /// Code of the cache format; none is the default of the spec.
    pub cache: Option<u8>,
    /// Tensor parallelism.
    pub tp: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Attention data parallelism.
    pub dp: u32,
    /// Expert parallelism.
    pub ep: u32,
    /// Context parallelism.
    pub cp: u32,
    /// How it runs.
    pub running: Running,
    /// Sequences in the engine.
    pub batch: f64,
    /// Prompt tokens.
    pub prompt_tokens: f64,
    /// Output tokens.
    pub output_tokens: f64,
}

/// What a mapping depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    model: u32,
    gpu: u32,
    weights: Option<u8>,
    cache: Option<u8>,
    mesh: Mesh,
    running: Running,
}

type Mapped = Arc<Result<Mapping, Infeasible>>;

impl Key {
    /// What a layout depends on.
    fn laid_out(self, profile: &Profile) -> Self {
        Self { running: of_layout(self.running, profile), ..self }
    }

    /// What all clocks share depends on.
    fn unclocked(self) -> Self {
        Self { running: Running { sm_clock_mhz: 0, power_cap_w: 0, ..self.running }, ..self }
    }

    fn formats(&self) -> Formats {
        let format = |code: Option<u8>| code.and_then(|code| DTYPES.iter().find(|d| d.code == code).copied());
        Formats { weights: format(self.weights), cache: format(self.cache) }
    }
}

impl Point {
    fn mesh(&self) -> Mesh {
        Mesh { tp: self.tp, pp: self.pp, dp: self.dp, ep: self.ep, cp: self.cp }
    }

    fn key(&self) -> Key {
        Key {
            model: self.model,
            gpu: self.gpu,
            weights: self.weights,
            cache: self.cache,
            mesh: self.mesh(),
            running: self.running,
        }
    }
}

/// A typed plan, ready to evaluate points.
#[derive(Debug)]
pub struct Plan {
    /// Models.
    pub graphs: Vec<Graph>,
    /// GPUs.
    pub profiles: Vec<Profile>,
    max_batched_tokens: f64,
    routings: Vec<Law>,
    /// Instructions used.
    pub level: Level,
    mappings: Cache<Key, Mapped>,
    layouts: Cache<Key, Result<Arc<LaidOut>, Infeasible>>,
    unclocked: Cache<Key, Arc<Unclocked>>,
}

impl Plan {
    /// Reads the canonical JSON into a typed plan.
    ///
    /// # Errors
    /// All problems of all models, with paths into the plan.
    pub fn from_json(text: &str) -> Result<Self, Problems> {
        Self::with_cache(text, CACHE_BYTES)
    }

    /// The same with a cache of mappings of so many bytes at most.
    ///
    /// # Errors
    /// All problems of all models, with paths into the plan.
    pub fn with_cache(text: &str, cache_bytes: usize) -> Result<Self, Problems> {
        let spec = PlanSpec::from_json(text)?;
        if spec.format != 1 {
            return Err(Problem::new("format", format!("plan format {} is not known", spec.format))
                .inside(&["format".into()])
                .into());
        }
        let mut problems = Problems::default();
        let mut graphs = Vec::new();
        for (i, model) in spec.models.iter().enumerate() {
            graphs.extend(problems.gather(&["models".into(), i.into()], Graph::build(model)));
        }
        for (i, profile) in spec.gpus.iter().enumerate() {
            problems.gather(&["gpus".into(), i.into()], profile.check().map_err(Problems::from));
        }
        problems.or(Self {
            graphs,
            profiles: spec.gpus,
            max_batched_tokens: spec.settings.max_batched_tokens,
            routings: spec.routings.into_iter().map(|named| named.law).collect(),
            level: Level::best(),
            mappings: Cache::new(cache_bytes / 4 * 3),
            layouts: Cache::new(cache_bytes / 8),
            unclocked: Cache::new(cache_bytes / 8),
        })
    }

    /// The mapping a point belongs to, made at its first use and cached while there is room.
    pub fn mapping(&self, point: &Point) -> Mapped {
        self.mapping_for(point, false)
    }

    /// The same, which may be used with tables.
    fn mapping_for(&self, point: &Point, tables: bool) -> Mapped {
        let key = point.key();
        let bytes = |mapped: &Mapped| mapped.as_ref().as_ref().map_or(0, |mapping| mapping.bytes(tables));
        if let Some(known) = self.mappings.get(&key, bytes) {
            return known;
        }
        let made = Arc::new(self.made(point));
        if !stopped() {
            self.mappings.put(key, Arc::clone(&made), bytes(&made));
        }
        made
    }

    fn made(&self, point: &Point) -> Result<Mapping, Infeasible> {
        let (graph, profile) = self.parts(point)?;
        let laid_out = self.layout(point.key().laid_out(profile), graph, profile)?;
        Mapping::new(laid_out, profile, point.running)
    }

    /// Everything of a mapping but how a cap holds its clock down.
    fn layout(&self, key: Key, graph: &Graph, profile: &Profile) -> Result<Arc<LaidOut>, Infeasible> {
        if let Some(known) = self.layouts.get(&key, |known| known.as_ref().map_or(0, |layout| layout.bytes(false))) {
            return known;
        }
        // Locked clocks share what does not follow the clock.
        let shared = Some(key.unclocked()).filter(|_| key.running.sm_clock_mhz > 0);
        let known = shared.and_then(|shared| self.unclocked.get(&shared, |known| known.bytes()));
        let made = LaidOut::new(graph, profile, key.mesh, key.formats(), key.running, self.settings(), known);
        let made = made.map(Arc::new);
        if !stopped() {
            if let (Some(shared), Ok(made)) = (shared, &made) {
                self.unclocked.put(shared, Arc::clone(made.unclocked()), made.unclocked().bytes());
            }
            self.layouts.put(key, made.clone(), made.as_ref().map_or(0, |layout| layout.bytes(false)));
        }
        made
    }

    /// The kernels of a point, prefill's and decode's, block by block.
    ///
    /// # Errors
    /// Why it cannot be laid out.
    pub fn kernels(&self, point: &Point) -> Result<[Blocks; 2], Infeasible> {
        let (graph, profile) = self.parts(point)?;
        let key = point.key();
        blocks(graph, profile, key.mesh, key.formats(), point.running, self.settings())
    }

    fn parts(&self, point: &Point) -> Result<(&Graph, &Profile), Infeasible> {
        let both = self.graphs.get(point.model as usize).zip(self.profiles.get(point.gpu as usize));
        both.ok_or_else(|| Infeasible {
            reason: Reason::Shard,
            message: "the plan has no such model or GPU".to_owned(),
            hint: String::new(),
            rank: None,
        })
    }

    fn settings(&self) -> Settings<'_> {
        Settings { max_batched_tokens: self.max_batched_tokens, routings: &self.routings }
    }

    /// Cached mappings and layouts, and their bytes.
    pub fn cached(&self) -> (usize, usize) {
        let sizes = [self.mappings.size(), self.layouts.size(), self.unclocked.size()];
        sizes.into_iter().fold((0, 0), |(entries, bytes), (more, size)| (entries + more, bytes + size))
    }
}
