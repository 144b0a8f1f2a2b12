"""Which way of serving a language model costs the fewest joules within its latency limits, before anything is deployed.

The verbs: `predict` one configuration, `evaluate` a frame of them, `explore` a whole space, `search` a larger one,
`sweep` one as a job that resumes (with `status` and `merge`), `split` prefill from decode.
The nouns: `Model` (a graph of einsums), `Space` (axes and limits), `Result` (a front as a Polars frame).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from energylens._core import __version__ as __version__
    from energylens.builder import Model as Model
    from energylens.disaggregation import Split as Split
    from energylens.disaggregation import split as split
    from energylens.errors import EnergylensError as EnergylensError
    from energylens.errors import FrameError as FrameError
    from energylens.errors import InfeasibleError as InfeasibleError
    from energylens.errors import SpaceError as SpaceError
    from energylens.errors import SpecError as SpecError
    from energylens.evaluation import evaluate as evaluate
    from energylens.exploration import explore as explore
    from energylens.library import gpus as gpus
    from energylens.library import models as models
    from energylens.prediction import Prediction as Prediction
    from energylens.prediction import predict as predict
    from energylens.result import Result as Result
    from energylens.search import search as search
    from energylens.space import Space as Space
    from energylens.spec.hf import spec_from_hf as spec_from_hf
    from energylens.store import read_parquet as read_parquet
    from energylens.sweeps.merge import merge as merge
    from energylens.sweeps.run import sweep as sweep
    from energylens.sweeps.status import Status as Status
    from energylens.sweeps.status import status as status

_HOMES = {
    "EnergylensError": "energylens.errors",
    "FrameError": "energylens.errors",
    "InfeasibleError": "energylens.errors",
    "Model": "energylens.builder",
    "Prediction": "energylens.prediction",
    "Result": "energylens.result",
    "Space": "energylens.space",
    "SpaceError": "energylens.errors",
    "SpecError": "energylens.errors",
    "Status": "energylens.sweeps.status",
    "Split": "energylens.disaggregation",
    "__version__": "energylens._core",
    "evaluate": "energylens.evaluation",
    "explore": "energylens.exploration",
    "gpus": "energylens.library",
    "merge": "energylens.sweeps.merge",
    "models": "energylens.library",
    "predict": "energylens.prediction",
    "read_parquet": "energylens.store",
    "search": "energylens.search",
    "spec_from_hf": "energylens.spec.hf",
    "split": "energylens.disaggregation",
    "status": "energylens.sweeps.status",
    "sweep": "energylens.sweeps.run",
}

__all__ = [
    "EnergylensError",
    "FrameError",
    "InfeasibleError",
    "Model",
    "Prediction",
    "Result",
    "Space",
    "SpaceError",
    "SpecError",
    "Split",
    "Status",
    "__version__",
    "evaluate",
    "explore",
    "gpus",
    "merge",
    "models",
    "predict",
    "read_parquet",
    "search",
    "spec_from_hf",
    "split",
    "status",
    "sweep",
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
