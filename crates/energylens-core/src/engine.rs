//! Walks points: lists of them or ranges of a space, in blocks, on a pool of threads of its own.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::{Arc, RwLock};

use rayon::prelude::*;

use crate::cost::lanes::LANES;
use crate::error::{Problem, Problems};
use crate::graph::Graph;
use crate::hardware::dtype::{DTYPES, Dtype};
use crate::hardware::profile::Profile;
use crate::mapping::{Formats, Mapping};
use crate::mesh::{Infeasible, Mesh, Reason};
use crate::pareto::{Front, Member};
use crate::plan::PlanSpec;
use crate::serving::{COLUMNS, Requests, Served, WIDTH, serve};
use crate::space::Space;

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
        let position = |format: Dtype| DTYPES.iter().position(|d| d.name == format.name).unwrap_or(0) as u8;
        Key {
            model: self.model,
            gpu: self.gpu,
            weights: self.weights.map(position),
            cache: self.cache.map(position),
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
    mappings: RwLock<KeyMap<Mapped>>,
}

/// Result columns of a list of points; rows that cannot be laid out are zero.
#[derive(Clone, Debug)]
pub struct Table {
    /// By column, then row.
    pub columns: Vec<Vec<f64>>,
    /// By row.
    pub reasons: Vec<u8>,
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
        problems.or(Self {
            graphs,
            profiles: spec.gpus,
            max_batched_tokens: spec.settings.max_batched_tokens,
            mappings: RwLock::new(KeyMap::default()),
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
            known.insert(key, Arc::clone(&made));
        }
        made
    }

    /// Evaluates a list of points; the result does not depend on `threads`.
    pub fn evaluate(&self, points: &[Point], threads: usize) -> Table {
        let mut groups: KeyMap<Vec<u32>> = KeyMap::default();
        for (row, point) in points.iter().enumerate() {
            groups.entry(point.key()).or_default().push(row as u32);
        }
        let blocks: Vec<&[u32]> = groups.values().flat_map(|rows| rows.chunks(LANES)).collect();
        let evaluate = |rows: &&[u32]| self.block(rows.iter().map(|row| &points[*row as usize]));
        let served: Vec<Option<Box<Served>>> = in_pool(threads, || blocks.par_iter().map(evaluate).collect());
        let mut table = Table { columns: vec![vec![0.0; points.len()]; WIDTH], reasons: vec![0; points.len()] };
        for (rows, served) in blocks.iter().zip(served) {
            let Some(served) = served else { continue };
            for (lane, row) in rows.iter().enumerate() {
                table.reasons[*row as usize] = served.reasons[lane] as u8;
            }
            for (column, lanes) in table.columns.iter_mut().zip(&served.columns) {
                for (lane, row) in rows.iter().enumerate() {
                    column[*row as usize] = lanes[lane];
                }
            }
        }
        table
    }

    /// One block of points of one mapping; lanes past its end repeat the last point.
    fn block<'a>(&self, points: impl Iterator<Item = &'a Point>) -> Option<Box<Served>> {
        let points: Vec<&Point> = points.take(LANES).collect();
        let (first, last) = (points.first()?, points.last()?);
        let lane = |i: usize| points.get(i).copied().unwrap_or(last);
        match self.mapping(first).as_ref() {
            Ok(mapping) => {
                let requests = Requests {
                    batch: std::array::from_fn(|i| lane(i).batch),
                    prompt_tokens: std::array::from_fn(|i| lane(i).prompt_tokens),
                    output_tokens: std::array::from_fn(|i| lane(i).output_tokens),
                };
                Some(Box::new(serve(mapping, &requests)))
            }
            Err(infeasible) => {
                let nothing = [[0.0; LANES]; WIDTH];
                Some(Box::new(Served { columns: nothing, reasons: [infeasible.reason; LANES] }))
            }
        }
    }

    /// The front of a range of a space.
    pub fn front(&self, space: &Space, range: Range<u64>, wanted: &Wanted, threads: usize) -> Found {
        const CHUNK: u64 = 1 << 14;
        let chunks: Vec<Range<u64>> =
            range.clone().step_by(CHUNK as usize).map(|lo| lo..(lo + CHUNK).min(range.end)).collect();
        let parts: Vec<(Front, Found)> = in_pool(threads, || {
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
        let mut objectives = vec![0.0; wanted.objectives.len()];
        let mut at = range.start;
        while at < range.end {
            let first = space.point(at);
            let mut points = vec![first];
            while points.len() < LANES && at + (points.len() as u64) < range.end {
                let next = space.point(at + points.len() as u64);
                if next.key() != first.key() {
                    break;
                }
                points.push(next);
            }
            if let Some(served) = self.block(points.iter()) {
                for lane in 0..points.len() {
                    found.by_reason[served.reasons[lane] as usize] += 1;
                    if served.reasons[lane] != Reason::Ok {
                        continue;
                    }
                    let inside =
                        |&(column, low, high): &(usize, f64, f64)| (low..=high).contains(&served.columns[column][lane]);
                    if !wanted.bounds.iter().all(inside) {
                        found.outside += 1;
                        continue;
                    }
                    for (objective, (column, sign)) in objectives.iter_mut().zip(&wanted.objectives) {
                        *objective = sign * served.columns[*column][lane];
                    }
                    front.offer(at + lane as u64, &objectives);
                }
            }
            at += points.len() as u64;
        }
        (front, found)
    }
}

/// Name of every result column: the main ones, then joules by phase and cause.
pub fn column_names() -> Vec<String> {
    let causes = |phase: &'static str| crate::step::CAUSES.iter().map(move |cause| format!("energy_{phase}_{cause}_j"));
    COLUMNS.iter().map(|name| (*name).to_owned()).chain(causes("prefill")).chain(causes("decode")).collect()
}

fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(work),
        Err(_) => work(),
    }
}
