//! Layers dealt to the stages of the pipeline.

use crate::graph::Graph;
use crate::lowering::parts::StageKind;

/// Deals layers to `pp` stages in order, as evenly as possible, the first stages taking one more where they do not divide.
/// Blocks that run once (embedding, head) go to the first stage if they stand before the layers, else to the last (section 8
/// of the physics page).
pub fn stage_kinds(graph: &Graph, pp: u32) -> Vec<StageKind> {
    let blocks = &graph.blocks;
    let layers = graph.layers();
    let stages = u64::from(pp);
    let mut rows = vec![vec![0.0; blocks.len()]; pp as usize];
    let end_of = |stage: u64| (stage + 1) * (layers / stages) + (stage + 1).min(layers % stages);
    let first_repeated = blocks.iter().position(|block| block.repeat > 1).unwrap_or(blocks.len());
    let (mut stage, mut dealt) = (0_u64, 0_u64);
    for (i, block) in blocks.iter().enumerate() {
        if block.repeat <= 1 {
            let at = if i < first_repeated { 0 } else { rows.len() - 1 };
            rows[at][i] += 1.0;
            continue;
        }
        let mut left = block.repeat;
        while left > 0 {
            let room = end_of(stage).saturating_sub(dealt);
            if room == 0 {
                stage += 1;
                continue;
            }
            let taken = room.min(left);
            rows[usize::try_from(stage).unwrap_or(0)][i] += taken as f64;
            dealt += taken;
            left -= taken;
        }
    }
    // Stages with the same layers cost the same: each kind is evaluated once.
    let mut kinds: Vec<StageKind> = Vec::new();
    for counts in rows {
        match kinds.iter_mut().find(|kind| kind.counts == counts) {
            Some(kind) => kind.stages += 1.0,
            None => kinds.push(StageKind { stages: 1.0, counts }),
        }
    }
    kinds
}
