"""Rules for a GPU known by its data sheet, held beside the profiles of GPUs known better."""

from __future__ import annotations

from typing import Any

import pytest

from energylens.inputs.library import load_gpu
from energylens.inputs.profile import Profile

TECHNOLOGY = {"a100-sxm-80gb": "HBM2e", "h100-sxm": "HBM3", "b200": "HBM3e"}


def both(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = load_gpu(name).spec
    memory = spec.memory.model_copy(update={"technology": TECHNOLOGY[name]})
    power = spec.power.model_copy(update={"static_w": None})
    bare = {"host": None, "kernels": None, "energy": None, "collectives": None, "memory": memory, "power": power}
    known, ruled = Profile.of(spec), Profile.of(spec.model_copy(update=bare))
    assert ruled.modelled
    return known.sections, ruled.sections


@pytest.mark.parametrize("name", list(TECHNOLOGY))
def test_energies_are_near_the_fitted_ones(name: str) -> None:
    known, ruled = both(name)
    assert ruled["power"]["static_w"] == pytest.approx(known["power"]["static_w"], rel=0.25)
    for field, near in (("hbm_weight", 0.25), ("hbm_kv", 0.4), ("on_chip", 0.25), ("link", 0.25)):
        wanted = known["energy"][f"{field}_j_per_byte"]
        assert ruled["energy"][f"{field}_j_per_byte"] == pytest.approx(wanted, rel=near), field
    assert ruled["energy"]["active_w"] == pytest.approx(known["energy"]["active_w"], rel=0.6)
    for arithmetic, joules in known["energy"]["flop_j"].items():
        assert ruled["energy"]["flop_j"][arithmetic] == pytest.approx(joules, rel=0.35), arithmetic


@pytest.mark.parametrize("name", list(TECHNOLOGY))
@pytest.mark.parametrize("gpus", ["2", "4", "8"])
@pytest.mark.parametrize("size", [2**14, 2**20, 2**24, 2**28])
def test_all_reduces_are_within_a_factor_of_two(name: str, gpus: str, size: int) -> None:
    def seconds(profile: dict[str, Any]) -> float:
        pieces = [i for i in profile["collectives"]["all_reduce"] if i["name"].startswith("nccl")]
        curves = [piece["by_gpus"][gpus] for piece in pieces]
        bus = 2 * (int(gpus) - 1) / int(gpus) * size
        return min(
            float(curve["alpha_s"] + curve["root_s_per_sqrt_byte"] * size**0.5 + bus / curve["bandwidth_bytes_per_s"])
            for curve in curves
            if size <= (curve.get("max_bytes") or size)
        )

    known, ruled = both(name)
    assert 0.5 < seconds(ruled) / seconds(known) < 2
