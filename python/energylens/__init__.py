"""Which way of serving a language model costs the fewest joules within its latency limits, before anything is deployed.

The verbs: `predict` one configuration, `evaluate` a frame of them, `explore` a whole space, `search` a larger one,
`sweep` one as a job that resumes (with `status` and `merge`), `split` prefill from decode; `serve` deployments under
a workload, `serve_plan` and `serve_pools` to choose one, `replay` it request by request; `advise_batch`, `sweet_spots`
and `advise_levers` for advice; `compare` two points, `export` one as the launch of a server; `measure` a GPU at hand.
The nouns: `Model` (a graph of einsums), `Space` (axes and limits), `Result` (a front as a Polars frame).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from energylens._core import __version__ as __version__
    from energylens.advice.batch import advise_batch as advise_batch
    from energylens.advice.levers import advise_levers as advise_levers
    from energylens.advice.sweet_spots import sweet_spots as sweet_spots
    from energylens.builder import Model as Model
    from energylens.comparison import Comparison as Comparison
    from energylens.comparison import compare as compare
    from energylens.disaggregation import Split as Split
    from energylens.disaggregation import split as split
    from energylens.errors import EnergylensError as EnergylensError
    from energylens.errors import FrameError as FrameError
    from energylens.errors import GpuError as GpuError
    from energylens.errors import InfeasibleError as InfeasibleError
    from energylens.errors import SpaceError as SpaceError
    from energylens.errors import SpecError as SpecError
    from energylens.evaluation import evaluate as evaluate
    from energylens.exploration import explore as explore
    from energylens.library import gpus as gpus
    from energylens.library import models as models
    from energylens.measurement.harness import measure as measure
    from energylens.prediction import Prediction as Prediction
    from energylens.prediction import predict as predict
    from energylens.result import Result as Result
    from energylens.searches import search as search
    from energylens.servers import Launch as Launch
    from energylens.servers import export as export
    from energylens.service.cost import Costs as Costs
    from energylens.service.planning import ServicePlan as ServicePlan
    from energylens.service.planning import serve_plan as serve_plan
    from energylens.service.pools import serve_pools as serve_pools
    from energylens.service.replaying import Replay as Replay
    from energylens.service.replaying import replay as replay
    from energylens.service.serving import serve as serve
    from energylens.service.workload import Workload as Workload
    from energylens.service.workload import load_workload as load_workload
    from energylens.service.workload import workloads as workloads
    from energylens.space import Space as Space
    from energylens.spec.hf import spec_from_hf as spec_from_hf
    from energylens.store import read_parquet as read_parquet
    from energylens.sweeps.merge import merge as merge
    from energylens.sweeps.run import sweep as sweep
    from energylens.sweeps.status import Status as Status
    from energylens.sweeps.status import status as status

_HOMES = {
    "Comparison": "energylens.comparison",
    "Costs": "energylens.service.cost",
    "EnergylensError": "energylens.errors",
    "FrameError": "energylens.errors",
    "GpuError": "energylens.errors",
    "InfeasibleError": "energylens.errors",
    "Launch": "energylens.servers",
    "Model": "energylens.builder",
    "Prediction": "energylens.prediction",
    "Replay": "energylens.service.replaying",
    "Result": "energylens.result",
    "ServicePlan": "energylens.service.planning",
    "Space": "energylens.space",
    "SpaceError": "energylens.errors",
    "SpecError": "energylens.errors",
    "Split": "energylens.disaggregation",
    "Status": "energylens.sweeps.status",
    "Workload": "energylens.service.workload",
    "__version__": "energylens._core",
    "advise_batch": "energylens.advice.batch",
    "advise_levers": "energylens.advice.levers",
    "compare": "energylens.comparison",
    "evaluate": "energylens.evaluation",
    "explore": "energylens.exploration",
    "export": "energylens.servers",
    "gpus": "energylens.library",
    "load_workload": "energylens.service.workload",
    "measure": "energylens.measurement.harness",
    "merge": "energylens.sweeps.merge",
    "models": "energylens.library",
    "predict": "energylens.prediction",
    "read_parquet": "energylens.store",
    "replay": "energylens.service.replaying",
    "search": "energylens.searches",
    "serve": "energylens.service.serving",
    "serve_plan": "energylens.service.planning",
    "serve_pools": "energylens.service.pools",
    "spec_from_hf": "energylens.spec.hf",
    "split": "energylens.disaggregation",
    "status": "energylens.sweeps.status",
    "sweep": "energylens.sweeps.run",
    "sweet_spots": "energylens.advice.sweet_spots",
    "workloads": "energylens.service.workload",
}

__all__ = [
    "Comparison",
    "Costs",
    "EnergylensError",
    "FrameError",
    "InfeasibleError",
    "Launch",
    "Model",
    "Prediction",
    "Replay",
    "Result",
    "ServicePlan",
    "Space",
    "SpaceError",
    "SpecError",
    "Split",
    "Status",
    "Workload",
    "__version__",
    "advise_batch",
    "advise_levers",
    "compare",
    "evaluate",
    "explore",
    "export",
    "gpus",
    "load_workload",
    "merge",
    "models",
    "predict",
    "read_parquet",
    "replay",
    "search",
    "serve",
    "serve_plan",
    "serve_pools",
    "spec_from_hf",
    "split",
    "status",
    "sweep",
    "sweet_spots",
    "workloads",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that importing the package stays cheap."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'energylens' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
