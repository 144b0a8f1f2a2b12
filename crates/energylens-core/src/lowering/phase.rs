//! From the graph to one phase of a mapping: its kernels, summed by kind of pipeline stage.

use std::sync::OnceLock;

use crate::cost::collective::{Collective, Group};
use crate::cost::program::Program;
use crate::graph::Block;
use crate::graph::flow::BlockFlow;
use crate::hardware::collectives::Operation;
use crate::lowering::context::Lowering;
use crate::lowering::features::Features;
use crate::lowering::kernel::{PhaseTables, Surroundings};
use crate::lowering::parts::{Blocks, MappedKernel, MappedPhase, StageKind};
use crate::numeric::shape::Poly;
use crate::phase::Phase;

impl Lowering<'_> {
    /// One phase of the model, its kernels block by block, and what run options apply to in it.
    pub(super) fn phase(&self, phase: Phase, kinds: &[StageKind]) -> (MappedPhase, Blocks, Features) {
        let flows = self.graph.flow(phase, self.mesh.dp == 1);
        let mut tables = PhaseTables::default();
        let blocks: Blocks = (self.graph.blocks.iter().zip(flows).enumerate())
            .map(|(i, (block, flow))| self.block(phase, (i, block), flow, &mut tables))
            .collect();
        let send = self.send(flows);
        let mut program = Program::new(phase == Phase::Decode, self.running.governed());
        for kind in kinds {
            program.next_stage();
            for (kernels, count) in blocks.iter().zip(&kind.counts).filter(|(_, count)| **count > 0.0) {
                program.add_block(kernels.iter().map(|kernel| &kernel.cost), *count);
            }
            // Its seconds depend on the stages around it and are added where passes are put together.
            send.iter().for_each(|send| program.add_link(send));
        }
        let send_overlaps = self.running.overlaps() && self.running.overlap_where.includes(phase);
        let contention = self.profile.link.contention;
        let PhaseTables { masks, divisions, mut features } = tables;
        features.overlapped |= send_overlaps && send.is_some();
        let fixed = OnceLock::new();
        (MappedPhase { program, send, send_overlaps, contention, masks, divisions, fixed }, blocks, features)
    }

    /// What one pipeline stage sends to the next (R of Eq. 8.2): activations of a layer; none without pipeline parallelism.
    fn send(&self, flows: &[BlockFlow]) -> Option<Collective> {
        let layer = self.graph.blocks.iter().position(|block| block.repeat > 1).filter(|_| self.mesh.pp > 1)?;
        let mut message = Poly::default();
        for moved in &flows[layer].handed_on {
            let local = self.mesh.local(self.graph, &self.graph.blocks[layer], &moved.ranks, moved.routed);
            message.add(&local.scaled(self.activation_format().bytes));
        }
        // Stages may be on different nodes as soon as the engine spans several.
        let group = Group { size: 2, span: self.mesh.gpus() };
        Collective::new(self.profile, Operation::SendRecv, group, message)
    }

    /// Kernels of a block, at position `i` of the graph.
    fn block(
        &self,
        phase: Phase,
        (i, block): (usize, &Block),
        flow: &BlockFlow,
        tables: &mut PhaseTables,
    ) -> Vec<MappedKernel> {
        let exchanged = self.exchanged(phase, block, flow);
        tables.features.reduced |= exchanged.reduced;
        let dispatches = exchanged.collectives.iter().flatten().any(|c| c.operation == Operation::Dispatch);
        let kernels = flow.kernels.iter().zip(exchanged.collectives).zip(&exchanged.reduced_before);
        let mapped = kernels.map(|((kernel, collectives), reduced_inputs)| {
            let ring = self.ring(phase, block, flow, kernel.kernel);
            let surroundings = Surroundings { collectives, reduced_inputs, dispatches, ring };
            let cost = self.kernel(phase, block, kernel, surroundings, tables);
            MappedKernel { place: (i, kernel.kernel), cost }
        });
        mapped.collect()
    }
}
