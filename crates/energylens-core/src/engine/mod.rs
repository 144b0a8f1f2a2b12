//! Walks points: lists of them or ranges of a space, in blocks, on a pool of threads of its own.

mod bounds;
mod factored;
mod list;
mod range;
mod sums;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, RwLock};

use rayon::ThreadPool;

use crate::error::{Problem, Problems};
use crate::graph::Graph;
use crate::hardware::dtype::DTYPES;
use crate::hardware::profile::Profile;
use crate::mapping::{Formats, Mapping, Settings};
use crate::mesh::{Infeasible, Mesh, Reason};
use crate::plan::PlanSpec;
use crate::routing::Law;
use crate::running::Running;
use crate::simd::Level;

pub use bounds::{Bounds, Span};
pub use factored::evaluations;
pub use list::{Points, Table};
pub use range::{Schedule, Visitor};

/// Points of one mapping from which tables of its matrix products pay.
const POINTS_WORTH_A_TABLE: usize = 4096;

/// Mappings kept for lists, whose next points may have any of them; some tens of kilobytes each, as few get tables.
const MOST_KEPT: usize = 8192;

/// Mappings kept for ranges, which go through them in order; with tables up to some two hundred kilobytes each.
const MOST_PASSED: usize = 256;

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position in the plan's models.
    pub model: u32,
    /// Position in the plan's GPUs.
    pub gpu: u32,
    /// Code of the weight format; none is the spec's own.
    pub weights: Option<u8>,
    /// Code of the cache format; none is the spec's own.
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

/// A multiplying hasher for keys of a few small integers; the standard one costs more than evaluating a point.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // The high bits know most of the key, the low ones choose the place.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}

type KeyMap<V> = HashMap<Key, V, BuildHasherDefault<KeyHasher>>;
type Mapped = Arc<Result<Mapping, Infeasible>>;

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
    kept: RwLock<KeyMap<Mapped>>,
    passed: RwLock<KeyMap<Mapped>>,
    pool: RwLock<Option<Arc<ThreadPool>>>,
}

impl Plan {
    /// Reads the canonical JSON into a typed plan.
    ///
    /// # Errors
    /// All problems of all models, with paths into the plan.
    pub fn from_json(text: &str) -> Result<Self, Problems> {
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
            kept: RwLock::new(KeyMap::default()),
            passed: RwLock::new(KeyMap::default()),
            pool: RwLock::new(None),
        })
    }

    /// The mapping a point belongs to, made at its first use and kept.
    pub fn mapping(&self, point: &Point) -> Mapped {
        self.mapping_in(&self.kept, MOST_KEPT, point)
    }

    /// The same for a walk, which leaves it behind.
    fn passing(&self, point: &Point) -> Mapped {
        self.mapping_in(&self.passed, MOST_PASSED, point)
    }

    fn mapping_in(&self, mappings: &RwLock<KeyMap<Mapped>>, most: usize, point: &Point) -> Mapped {
        let key = point.key();
        if let Ok(known) = mappings.read()
            && let Some(mapping) = known.get(&key)
        {
            return Arc::clone(mapping);
        }
        let format = |code: Option<u8>| code.and_then(|code| DTYPES.iter().find(|d| d.code == code).copied());
        let formats: Formats = Formats { weights: format(point.weights), cache: format(point.cache) };
        let made = match (self.graphs.get(point.model as usize), self.profiles.get(point.gpu as usize)) {
            (Some(graph), Some(profile)) => {
                let settings = Settings { max_batched_tokens: self.max_batched_tokens, routings: &self.routings };
                Mapping::new(graph, profile, point.mesh(), formats, point.running, settings)
            }
            _ => Err(Infeasible {
                reason: Reason::Shard,
                message: "the plan has no such model or GPU".to_owned(),
                hint: String::new(),
                rank: None,
            }),
        };
        let made: Mapped = Arc::new(made);
        if let Ok(mut known) = mappings.write() {
            if known.len() >= most {
                known.clear();
            }
            known.insert(key, Arc::clone(&made));
        }
        made
    }

    /// A pool of at least that many threads, kept for the next call; none if it cannot be made.
    fn pool(&self, threads: usize) -> Option<Arc<ThreadPool>> {
        let enough = |pool: &Arc<ThreadPool>| pool.current_num_threads() >= threads;
        let known = self.pool.read().ok().and_then(|pool| pool.clone()).filter(enough);
        known.or_else(|| {
            let made = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()?);
            if let Ok(mut pool) = self.pool.write() {
                *pool = Some(Arc::clone(&made));
            }
            Some(made)
        })
    }

    /// Runs `work` once on each of that many threads; on the caller's own if there is but one.
    fn on_threads<R: Send>(&self, threads: usize, work: impl Fn() -> R + Sync) -> Vec<R> {
        match Some(threads).filter(|threads| *threads > 1).and_then(|threads| self.pool(threads)) {
            Some(pool) => pool.broadcast(|own| (own.index() < threads).then(&work)).into_iter().flatten().collect(),
            None => vec![work()],
        }
    }
}
