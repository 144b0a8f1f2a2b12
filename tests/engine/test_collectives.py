"""Collectives by themselves."""

from __future__ import annotations

import polars as pl
import pytest

from energylens.common.errors import SpaceError
from energylens.engine.collectives import OPERATIONS, collectives
from energylens.inputs.library import load_gpu

MEASURED = {
    ("nccl", 2, 2**26): 0.255e-3,
    ("nccl", 4, 2**26): 0.330e-3,
    ("nccl", 8, 2**26): 0.325e-3,
    ("nccl", 8, 2**20): 25.4e-6,
    ("nccl", 8, 2**13): 16.0e-6,
    ("custom", 2, 2**20): 8.3e-6,
    ("custom", 4, 2**20): 12.8e-6,
    ("custom", 8, 2**20): 15.0e-6,
    ("custom", 8, 2**13): 5.1e-6,
}
"""Seconds of an all-reduce on H100: NCCL 2.29, and vLLM's own in a CUDA graph (AIConfigurator 0.12, Apache-2.0)."""


@pytest.mark.parametrize(("implementation", "gpus", "size"), MEASURED)
def test_all_reduces_of_h100_are_as_measured(implementation: str, gpus: int, size: int) -> None:
    found = collectives("h100-sxm", gpus=[gpus], sizes=[size], implementation=implementation)["seconds"].item()
    assert found == pytest.approx(MEASURED[implementation, gpus, size], rel=0.12)


def test_fewer_sms_and_more_bytes_take_longer_and_more_nodes_are_marked() -> None:
    found = collectives("h100-sxm", operations=OPERATIONS, gpus=[8, 64, 1024], sms=[2, 8, None])
    for _, part in found.group_by("operation", "gpus", "sms"):
        assert part.sort("bytes")["seconds"].is_sorted()
        assert part.sort("bytes")["energy_per_gpu_j"].is_sorted()
    for _, part in found.group_by("operation", "gpus", "bytes"):
        few, some, own = part.filter(sms=2), part.filter(sms=8), part.filter(part["sms"].is_null())
        assert few["seconds"].item() >= some["seconds"].item() >= own["seconds"].item()
    own = found.filter(gpus=8).filter(pl.col("operation") != "send_recv")
    assert not own["extrapolated"].any()
    assert found.filter(gpus=1024)["extrapolated"].all()
    assert found.filter(gpus=1024, operation="all_reduce")["nodes"].unique().to_list() == [128]


def test_switches_that_add_up_halve_the_network_part() -> None:
    spec = load_gpu("h100-sxm").spec
    assert spec.link.net_reduction is False
    (plain,) = collectives("h100-sxm", gpus=[1024], sizes=[2**30])["seconds"].to_list()
    inside = collectives("h100-sxm", gpus=[8], sizes=[2**30])["seconds"].item()
    network = 7e-5 + 2 * 127 / 128 * 2**30 / 8 / 50e9
    assert plain - inside == pytest.approx(network, rel=1e-9)


def test_mistakes_are_reported_together() -> None:
    with pytest.raises(SpaceError) as caught:
        collectives("h100-sxm", operations=["all_redue"], gpus=[1], sizes=[0], sms=[0])
    assert len(caught.value.problems) == 4
    with pytest.raises(SpaceError, match="no implementation `ncl`"):
        collectives("h100-sxm", implementation="ncl")
