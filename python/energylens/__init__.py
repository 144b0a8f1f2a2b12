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
    from energylens.common.errors import EnergylensError as EnergylensError
    from energylens.common.errors import FrameError as FrameError
    from energylens.common.errors import GpuError as GpuError
    from energylens.common.errors import InfeasibleError as InfeasibleError
    from energylens.common.errors import SpaceError as SpaceError
    from energylens.common.errors import SpecError as SpecError
    from energylens.common.parquet_file import read_parquet as read_parquet
    from energylens.engine.evaluate import evaluate as evaluate
    from energylens.engine.space import Space as Space
    from energylens.exports import Launch as Launch
    from energylens.exports import export as export
    from energylens.inputs.builder import Model as Model
    from energylens.inputs.hf import spec_from_hf as spec_from_hf
    from energylens.inputs.library import gpus as gpus
    from energylens.inputs.library import models as models
    from energylens.measurement.harness import measure as measure
    from energylens.results.comparison import Comparison as Comparison
    from energylens.results.comparison import compare as compare
    from energylens.results.prediction import Prediction as Prediction
    from energylens.results.prediction import predict as predict
    from energylens.results.result import Result as Result
    from energylens.searches import search as search
    from energylens.searches.exhaustive import explore as explore
    from energylens.serving.advice.batch import advise_batch as advise_batch
    from energylens.serving.advice.levers import advise_levers as advise_levers
    from energylens.serving.advice.sweet_spots import sweet_spots as sweet_spots
    from energylens.serving.costs import Costs as Costs
    from energylens.serving.evaluate import serve as serve
    from energylens.serving.plan import ServicePlan as ServicePlan
    from energylens.serving.plan import serve_plan as serve_plan
    from energylens.serving.pools import serve_pools as serve_pools
    from energylens.serving.replay import Replay as Replay
    from energylens.serving.replay import replay as replay
    from energylens.serving.split import Split as Split
    from energylens.serving.split import split as split
    from energylens.serving.workload import Workload as Workload
    from energylens.serving.workload import load_workload as load_workload
    from energylens.serving.workload import workloads as workloads
    from energylens.sweeps.merge import merge as merge
    from energylens.sweeps.run import sweep as sweep
    from energylens.sweeps.status import Status as Status
    from energylens.sweeps.status import status as status

_HOMES = {
    "Comparison": "energylens.results.comparison",
    "Costs": "energylens.serving.costs",
    "EnergylensError": "energylens.common.errors",
    "FrameError": "energylens.common.errors",
    "GpuError": "energylens.common.errors",
    "InfeasibleError": "energylens.common.errors",
    "Launch": "energylens.exports",
    "Model": "energylens.inputs.builder",
    "Prediction": "energylens.results.prediction",
    "Replay": "energylens.serving.replay",
    "Result": "energylens.results.result",
    "ServicePlan": "energylens.serving.plan",
    "Space": "energylens.engine.space",
    "SpaceError": "energylens.common.errors",
    "SpecError": "energylens.common.errors",
    "Split": "energylens.serving.split",
    "Status": "energylens.sweeps.status",
    "Workload": "energylens.serving.workload",
    "__version__": "energylens._core",
    "advise_batch": "energylens.serving.advice.batch",
    "advise_levers": "energylens.serving.advice.levers",
    "compare": "energylens.results.comparison",
    "evaluate": "energylens.engine.evaluate",
    "explore": "energylens.searches.exhaustive",
    "export": "energylens.exports",
    "gpus": "energylens.inputs.library",
    "load_workload": "energylens.serving.workload",
    "measure": "energylens.measurement.harness",
    "merge": "energylens.sweeps.merge",
    "models": "energylens.inputs.library",
    "predict": "energylens.results.prediction",
    "read_parquet": "energylens.common.parquet_file",
    "replay": "energylens.serving.replay",
    "search": "energylens.searches",
    "serve": "energylens.serving.evaluate",
    "serve_plan": "energylens.serving.plan",
    "serve_pools": "energylens.serving.pools",
    "spec_from_hf": "energylens.inputs.hf",
    "split": "energylens.serving.split",
    "status": "energylens.sweeps.status",
    "sweep": "energylens.sweeps.run",
    "sweet_spots": "energylens.serving.advice.sweet_spots",
    "workloads": "energylens.serving.workload",
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
