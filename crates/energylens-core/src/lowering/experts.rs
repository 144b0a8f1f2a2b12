//! How tokens load the experts of a mesh.

use crate::cost::env::Experts;
use crate::graph::Graph;
use crate::input::run_options::Running;
use crate::lowering::mesh::{Infeasible, Mesh, Reason};
use crate::routing::table::known;
use crate::routing::{Choice, Law, Placement};

/// Routing constants of a mesh; none for a model without experts.
///
/// # Errors
/// A routing law or a placement that does not suit the model or the mesh.
pub(super) fn routed(graph: &Graph, mesh: Mesh, running: Running, laws: &[Law]) -> Result<Option<Experts>, Infeasible> {
    let fault =
        |reason, message: String, hint: &str| Err(Infeasible { reason, message, hint: hint.to_owned(), rank: None });
    let Some(routed) = graph.routed else {
        return match (running.routing, running.placement) {
            (0, 0) => Ok(None),
            (0, _) => fault(Reason::Placement, "a placement, but there are no experts".to_owned(), "leave it out"),
            _ => fault(Reason::Routing, "a law of routing, but there are no experts".to_owned(), "leave it out"),
        };
    };
    let law = match running.routing {
        0 => graph.ranks.get(&routed.rank).map(|rank| &rank.routing),
        position => laws.get(usize::from(position) - 1),
    };
    let Some(law) = law else { return fault(Reason::Routing, "the plan has no such law of routing".to_owned(), "") };
    let (experts, active, gpus) = (routed.extent as usize, routed.active as usize, mesh.ep as usize);
    if let Some(message) = law.fault(experts, active) {
        return fault(Reason::Routing, message, "count the tokens of every expert, of those without any too");
    }
    let placement = Placement::of(running.placement);
    if placement != Placement::Contiguous && gpus == 1 {
        return fault(Reason::Placement, "a placement, but one GPU holds all experts".to_owned(), "use ep 2 or more");
    }
    if !(experts + placement.more()).is_multiple_of(gpus) {
        let message = format!("{} copies besides {experts} experts do not divide over ep {gpus}", placement.more());
        return fault(Reason::Placement, message, "use a multiple of ep");
    }
    let choice = Choice { experts, active, gpus };
    Ok(Some(Experts {
        pool: f64::from(mesh.dp),
        active: routed.active,
        gpus: f64::from(mesh.ep),
        sent: mesh.dp > 1,
        local: (experts + placement.more()) as f64 / gpus as f64,
        table: known(law, choice, placement),
    }))
}
