//! Walks points: lists of them or ranges of a space, in blocks, on a pool of threads of its own.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::{Arc, RwLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::cost::lanes::LANES;
use crate::error::{Problem, Problems};
use crate::graph::Graph;
use crate::hardware::dtype::Dtype;
use crate::hardware::profile::Profile;
use crate::mapping::{Formats, Mapping};
use crate::mesh::{Infeasible, Mesh, Reason};
use crate::pareto::{Front, Member};
use crate::plan::PlanSpec;
use crate::serving::{COLUMNS, Requests, Served, WIDTH, Workspace};
use crate::simd::{self, Level};
use crate::space::Space;

/// Points of one mapping from which tables of its matrix products pay.
const POINTS_WORTH_A_TABLE: usize = 4096;

/// Mappings kept between calls, some tens of kilobytes each.
const MAPPINGS_KEPT: usize = 8192;

/// Blocks whose results are held before they are written to their rows.
const BLOCKS_HELD: usize = 4096;

/// Blocks below which other threads are not woken.
const BLOCKS_WORTH_A_THREAD: usize = 2;

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position in the plan's models.
    pub model: u32,
    /// Position in the plan's GPUs.
    pub gpu: u32,
    /// Weight format; none is the spec's own.
    pub weights: Option<Dtype>,
    /// Cache format; none is the spec's own.
    pub cache: Option<Dtype>,
    /// Tensor parallelism.
    pub tp: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Attention data parallelism.
    pub dp: u32,
    /// Expert parallelism.
    pub ep: u32,
    /// Sequences in the engine.
    pub batch: f64,
    /// Prompt tokens.
    pub prompt_tokens: f64,
    /// Output tokens.
    pub output_tokens: f64,
}

/// What a mapping depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    model: u32,
    gpu: u32,
    weights: Option<u8>,
    cache: Option<u8>,
    mesh: Mesh,
}

/// A multiplying hasher for keys of a few small integers; the standard one costs more than evaluating a point.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
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
        Mesh { tp: self.tp, pp: self.pp, dp: self.dp, ep: self.ep }
    }

    fn key(&self) -> Key {
        Key {
            model: self.model,
            gpu: self.gpu,
            weights: self.weights.map(|format| format.code),
            cache: self.cache.map(|format| format.code),
            mesh: self.mesh(),
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
    /// Instructions used.
    pub level: Level,
    mappings: RwLock<KeyMap<Mapped>>,
    pools: RwLock<HashMap<usize, Arc<ThreadPool>>>,
}

/// Result columns of a list of points; rows that cannot be laid out are zero.
#[derive(Clone, Debug)]
pub struct Table {
    /// By column, then row.
    pub columns: Vec<Vec<f64>>,
    /// By row.
    pub reasons: Vec<u8>,
}

/// Results of a block: column by column, empty if it cannot be laid out.
struct Block {
    values: Vec<f64>,
    reasons: Vec<Reason>,
}

impl Block {
    fn scatter(&self, column: usize, rows: &[u32], out: &mut [f64]) {
        if let Some(values) = self.values.get(column * rows.len()..(column + 1) * rows.len()) {
            for (row, value) in rows.iter().zip(values) {
                out[*row as usize] = *value;
            }
        }
    }

    fn scatter_reasons(&self, rows: &[u32], out: &mut [u8]) {
        for (row, reason) in rows.iter().zip(&self.reasons) {
            out[*row as usize] = *reason as u8;
        }
    }
}

/// What a front keeps: result columns with their sense, and upper or lower bounds.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Column and sign (1 to minimise, −1 to maximise).
    pub objectives: Vec<(usize, f64)>,
    /// Column, lowest and highest allowed value.
    pub bounds: Vec<(usize, f64, f64)>,
}

/// A front with the count of points by reason, and of feasible points outside the bounds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Non-dominated points.
    pub members: Vec<Member>,
    /// Points by reason code.
    pub by_reason: [u64; Reason::NAMES.len()],
    /// Feasible points outside the bounds.
    pub outside: u64,
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
            level: Level::best(),
            mappings: RwLock::new(KeyMap::default()),
            pools: RwLock::new(HashMap::new()),
        })
    }

    /// The mapping a point belongs to, made at its first use.
    pub fn mapping(&self, point: &Point) -> Mapped {
        let key = point.key();
        if let Ok(known) = self.mappings.read()
            && let Some(mapping) = known.get(&key)
        {
            return Arc::clone(mapping);
        }
        let formats = Formats { weights: point.weights, cache: point.cache };
        let made = match (self.graphs.get(point.model as usize), self.profiles.get(point.gpu as usize)) {
            (Some(graph), Some(profile)) => {
                Mapping::new(graph, profile, point.mesh(), formats, self.max_batched_tokens)
            }
            _ => Err(Infeasible {
                reason: Reason::Shard,
                message: "the plan has no such model or GPU".to_owned(),
                hint: String::new(),
                rank: None,
            }),
        };
        let made: Mapped = Arc::new(made);
        if let Ok(mut known) = self.mappings.write() {
            if known.len() >= MAPPINGS_KEPT {
                known.clear();
            }
            known.insert(key, Arc::clone(&made));
        }
        made
    }

    /// Evaluates a list of points into the first `width` result columns; the result does not depend on `threads`.
    pub fn evaluate(&self, points: &[Point], width: usize, threads: usize) -> Table {
        let mut groups: KeyMap<Vec<u32>> = KeyMap::default();
        for (row, point) in points.iter().enumerate() {
            groups.entry(point.key()).or_default().push(row as u32);
        }
        let blocks: Vec<(&[u32], bool)> = groups
            .values()
            .flat_map(|rows| rows.chunks(LANES).map(|chunk| (chunk, rows.len() >= POINTS_WORTH_A_TABLE)))
            .collect();
        let width = width.min(WIDTH);
        let mut table = Table { columns: vec![vec![0.0; points.len()]; width], reasons: vec![0; points.len()] };
        if threads <= 1 || blocks.len() <= BLOCKS_WORTH_A_THREAD {
            let mut workspace = Workspace::default();
            for (rows, tables) in &blocks {
                let block = self.block(points, rows, *tables, width, &mut workspace);
                table.columns.iter_mut().enumerate().for_each(|(c, column)| block.scatter(c, rows, column));
                block.scatter_reasons(rows, &mut table.reasons);
            }
        } else {
            self.in_pool(threads, || {
                for blocks in blocks.chunks(BLOCKS_HELD) {
                    let evaluate = |workspace: &mut Workspace, (rows, tables): &(&[u32], bool)| {
                        self.block(points, rows, *tables, width, workspace)
                    };
                    let done: Vec<Block> = blocks.par_iter().map_init(Workspace::default, evaluate).collect();
                    table.columns.par_iter_mut().enumerate().for_each(|(c, column)| {
                        blocks.iter().zip(&done).for_each(|((rows, _), block)| block.scatter(c, rows, column));
                    });
                    for ((rows, _), block) in blocks.iter().zip(&done) {
                        block.scatter_reasons(rows, &mut table.reasons);
                    }
                }
            });
        }
        table
    }

    /// One block of points of one mapping; lanes past its end repeat the last point.
    fn block(&self, points: &[Point], rows: &[u32], tables: bool, width: usize, workspace: &mut Workspace) -> Block {
        let last = rows.len().saturating_sub(1);
        let lane = |i: usize| &points[rows[i.min(last)] as usize];
        match self.mapping(lane(0)).as_ref() {
            Ok(mapping) => {
                let requests = Requests {
                    batch: std::array::from_fn(|i| lane(i).batch),
                    prompt_tokens: std::array::from_fn(|i| lane(i).prompt_tokens),
                    output_tokens: std::array::from_fn(|i| lane(i).output_tokens),
                };
                simd::serve(self.level, mapping, &requests, tables, workspace);
                let served = &workspace.served;
                let values = served.columns[..width].iter().flat_map(|lanes| &lanes[..rows.len()]).copied().collect();
                Block { values, reasons: served.reasons[..rows.len()].to_vec() }
            }
            Err(infeasible) => Block { values: Vec::new(), reasons: vec![infeasible.reason; rows.len()] },
        }
    }

    /// Runs `work` on a pool of that many threads, kept for the next call; the caller's own thread if none can be made.
    fn in_pool<R: Send>(&self, threads: usize, work: impl FnOnce() -> R + Send) -> R {
        let known = self.pools.read().ok().and_then(|pools| pools.get(&threads).cloned());
        let pool = known.or_else(|| {
            let made = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()?);
            if let Ok(mut pools) = self.pools.write() {
                pools.insert(threads, Arc::clone(&made));
            }
            Some(made)
        });
        match pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// The front of a range of a space.
    pub fn front(&self, space: &Space, range: Range<u64>, wanted: &Wanted, threads: usize) -> Found {
        const CHUNK: u64 = 1 << 14;
        let chunks: Vec<Range<u64>> =
            range.clone().step_by(CHUNK as usize).map(|lo| lo..lo.saturating_add(CHUNK).min(range.end)).collect();
        let parts: Vec<(Front, Found)> = self.in_pool(threads, || {
            chunks.par_iter().map(|chunk| self.front_of_chunk(space, chunk.clone(), wanted)).collect()
        });
        let (mut front, mut found) = (Front::default(), Found::default());
        for (part, counts) in parts {
            front.merge(part);
            found.outside += counts.outside;
            for (sum, count) in found.by_reason.iter_mut().zip(counts.by_reason) {
                *sum += count;
            }
        }
        found.members = front.into_members();
        found
    }

    fn front_of_chunk(&self, space: &Space, range: Range<u64>, wanted: &Wanted) -> (Front, Found) {
        let (mut front, mut found) = (Front::default(), Found::default());
        let mut workspace = Workspace::default();
        let mut objectives = vec![0.0; wanted.objectives.len()];
        let run = space.run() as u64;
        let tables = run >= POINTS_WORTH_A_TABLE as u64;
        let mut at = range.start;
        while at < range.end {
            let stop = range.end.min((at / run + 1) * run);
            match self.mapping(&space.point(at)).as_ref() {
                Err(infeasible) => found.by_reason[infeasible.reason as usize] += stop - at,
                Ok(mapping) => {
                    for lo in (at..stop).step_by(LANES) {
                        let points = LANES.min((stop - lo) as usize);
                        simd::serve(self.level, mapping, &space.requests(lo, points), tables, &mut workspace);
                        for lane in 0..points {
                            keep(
                                &workspace.served,
                                lane,
                                lo + lane as u64,
                                wanted,
                                &mut objectives,
                                &mut front,
                                &mut found,
                            );
                        }
                    }
                }
            }
            at = stop;
        }
        (front, found)
    }
}

/// Counts one point and offers it to the front.
fn keep(
    served: &Served,
    lane: usize,
    index: u64,
    wanted: &Wanted,
    objectives: &mut [f64],
    front: &mut Front,
    found: &mut Found,
) {
    found.by_reason[served.reasons[lane] as usize] += 1;
    if served.reasons[lane] != Reason::Ok {
        return;
    }
    let inside = |&(column, low, high): &(usize, f64, f64)| (low..=high).contains(&served.columns[column][lane]);
    if !wanted.bounds.iter().all(inside) {
        found.outside += 1;
        return;
    }
    for (objective, (column, sign)) in objectives.iter_mut().zip(&wanted.objectives) {
        *objective = sign * served.columns[*column][lane];
    }
    front.offer(index, objectives);
}

/// Name of every result column: the main ones, then joules by phase and cause.
pub fn column_names() -> Vec<String> {
    let causes = |phase: &'static str| crate::step::CAUSES.iter().map(move |cause| format!("energy_{phase}_{cause}_j"));
    COLUMNS.iter().map(|name| (*name).to_owned()).chain(causes("prefill")).chain(causes("decode")).collect()
}
