"""Laws of routing, placements, and counts of people: tables against enumeration, words, files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energylens import _core
from energylens.errors import EnergylensError, SpaceError, SpecError
from energylens.evaluation import evaluate
from energylens.routing import counts, loads, placement_problem, problem, read

UNIFORM = json.dumps({"law": "uniform"})


def enumerated(experts: int, active: int, gpus: int, tokens: int, weights: list[float]) -> tuple[float, float, float]:
    """Return experts hit on a mean GPU and, of the busiest, experts hit and tokens, over all ways to choose."""
    picks: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(experts), active):
        chance, left = 1.0, sum(weights)
        for expert in order:
            chance *= weights[expert] / left
            left -= weights[expert]
        key = tuple(sorted(order))
        picks[key] = picks.get(key, 0.0) + chance
    each, found = experts // gpus, np.zeros(3)
    for chosen in itertools.product(picks, repeat=tokens):
        chance = float(np.prod([picks[one] for one in chosen]))
        n = np.bincount([expert for one in chosen for expert in one], minlength=experts).reshape(gpus, each)
        busiest = int(n.sum(axis=1).argmax())
        found += chance * np.array([(n > 0).sum() / gpus, (n[busiest] > 0).sum(), n[busiest].sum()])
    return float(found[0]), float(found[1]), float(found[2])


@pytest.mark.parametrize(
    ("experts", "active", "gpus", "tokens"), [(4, 2, 2, 2), (4, 1, 4, 3), (6, 2, 3, 2), (6, 3, 2, 2), (8, 2, 4, 2)]
)
def test_drawn_loads_are_within_one_per_cent_of_enumerated_ones(
    experts: int, active: int, gpus: int, tokens: int
) -> None:
    exact = enumerated(experts, active, gpus, tokens, [1.0] * experts)
    hit, _, busy, _ = _core.routing_loads(UNIFORM, experts, active, gpus, 0, [tokens])
    assert hit[0] == pytest.approx(exact[0], rel=1e-9)
    assert busy[0] == pytest.approx(exact[2], rel=0.01)


def test_counted_weights_are_drawn_as_enumerated() -> None:
    weights = [8.0, 1.0, 4.0, 2.0]
    exact = enumerated(4, 2, 2, 2, weights)
    law = json.dumps({"law": "counts", "value": [weights]})
    hit, busy_hit, busy, _ = _core.routing_loads(law, 4, 2, 2, 0, [2])
    assert [hit[0], busy[0]] == pytest.approx([exact[0], exact[2]], rel=0.01)
    assert busy_hit[0] == pytest.approx(exact[1], rel=0.02)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["uniform", "dirichlet:0.5", "zipf:0.7", "power_law:1.2", "balanced"]), st.integers(0, 14))
def test_loads_hold_together(law: str, doubling: int) -> None:
    text = json.dumps(read(law).canonical())
    tokens = float(2**doubling)
    for gpus in (1, 4, 16):
        hits, busy_hits, busy_tokens, tiles = _core.routing_loads(text, 64, 4, gpus, 0, [tokens])
        hit, busy_hit, busy = hits[0], busy_hits[0], busy_tokens[0]
        mean = tokens * 4 / gpus
        assert 0 < hit <= 64 / gpus + 1e-9
        assert 0 < busy_hit <= 64 / gpus + 1e-9
        assert mean * (1 - 1e-9) <= busy <= 4 * tokens
        for rows, of in zip(_core.TILE_ROWS, tiles, strict=True):
            assert of[0] >= busy_hit * (1 - 1e-9) or law == "balanced"
            assert of[0] * rows >= busy * (1 - 0.03)


def test_better_placements_lower_the_busiest_load_and_one_gpu_has_it_all() -> None:
    found = loads(
        "qwen3-235b-a22b", gpus=[8], tokens=[64, 4096], routings=["zipf:0.8"],
        placements=["contiguous", "balanced", "replicated:16", "replicated:64"],
    )  # fmt: skip
    for tokens in (64, 4096):
        load = found.filter(tokens=tokens)["load"].to_list()
        assert load == sorted(load, reverse=True)
        assert load[-1] >= 1
    alone = loads("qwen3-235b-a22b", gpus=[1], tokens=[64], routings=["zipf:0.8", "uniform"])
    assert alone["load"].to_list() == pytest.approx([1, 1])
    assert alone["experts_hit"][1] == pytest.approx(128 * (1 - (1 - 8 / 128) ** 64), rel=1e-9)


def test_permuting_counted_experts_changes_nothing_under_balanced_placement(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(1, 1000, 128)
    for name, order in (("a", np.arange(128)), ("b", np.random.default_rng(2).permutation(128))):
        pl.DataFrame({"expert": range(128), "tokens": numbers[order]}).write_csv(tmp_path / f"{name}.csv")
    found = loads(
        "qwen3-235b-a22b", gpus=[8], tokens=[4096], routings=[f"counts:{tmp_path}/{n}.csv" for n in "ab"],
        placements=["balanced", "contiguous"],
    )  # fmt: skip
    balanced = found.filter(placement="balanced")
    assert balanced["load"][0] == pytest.approx(balanced["load"][1], rel=0.01)
    plain = found.filter(placement="contiguous")
    assert abs(plain["load"][0] / plain["load"][1] - 1) > 0.01


def test_one_gpu_has_no_all_to_all_and_skew_costs_time_and_joules() -> None:
    base = {"model": "qwen3-235b-a22b", "gpu": "b200", "batch": 256, "prompt_tokens": 1024, "output_tokens": 64}
    rows = [
        base | {"tp": tp, "dp": dp, "ep": ep, "routing": law, "placement": where}
        for tp, dp, ep, law, where in (
            (8, 1, 1, "uniform", "contiguous"),
            (1, 8, 8, "balanced", "contiguous"),
            (1, 8, 8, "zipf:0.8", "contiguous"),
            (1, 8, 8, "zipf:0.8", "balanced"),
        )
    ]
    _, even, skewed, placed = evaluate(pl.DataFrame(rows), breakdown=True).iter_rows(named=True)
    assert skewed["ttft_s"] > placed["ttft_s"] > even["ttft_s"]
    assert skewed["energy_prefill_j"] > placed["energy_prefill_j"] > even["energy_prefill_j"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zip:1", "`zip:1` is no law of routing"),
        ("zipf", "cannot read the exponent of `zipf`"),
        ("dirichlet:-1", "cannot read the shape"),
        ("uniform:2", "`uniform` takes no number"),
        (3, "`3` is no law"),
    ],
)
def test_laws_that_cannot_be_read_are_told(text: object, words: str) -> None:
    found = problem(text)
    assert found is not None
    assert words in found.message


def test_placements_that_cannot_be_read_are_told() -> None:
    assert placement_problem("replicated:8") is None
    for text in ("replicated", "replicated:0", "random"):
        assert placement_problem(text) is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("expert,tokens\n0,5\n1,-3\n", "negative `tokens`"),
        ("expert,tokens\n0,5\n2,3\n", "expert 1 has no row"),
        ("expert,tokens\n0,5\n0,3\n1,2\n", "two rows"),
        ("layer,expert,tokens\n0,0,5\n0,1,3\n1,0,4\n1,1,3\n", "layers have 7 to 8 tokens"),
        ("expert,tokens\n0,0\n1,0\n", "there are no tokens"),
        ("expert,n\n0,1\n", "no column `tokens`"),
        ("expert,tokens\n0,many\n", "not made of whole numbers"),
    ],
)
def test_counts_that_do_not_sum_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        counts(path)


def test_counts_of_choices_are_counted_and_must_fit_the_model(tmp_path: Path) -> None:
    path = tmp_path / "picks.parquet"
    pl.DataFrame({"token": [0, 0, 1, 1], "expert": [0, 1, 1, 2]}).write_parquet(path)
    assert counts(path) == ((1.0, 2.0, 1.0),)
    with pytest.raises(SpaceError, match="counts 3 experts, qwen3-30b-a3b has 128"):
        loads("qwen3-30b-a3b", routings=[f"counts:{path}"])
    with pytest.raises(SpecError, match="no such file"):
        counts(tmp_path / "none.csv")
    found = evaluate(pl.DataFrame([{"model": "qwen3-30b-a3b", "gpu": "h100-sxm", "routing": f"counts:{path}"}]))
    assert (found["feasible"][0], found["reason"][0]) == (False, "experts")


def test_a_dense_model_has_nothing_to_route() -> None:
    for point in ({"routing": "uniform"}, {"placement": "balanced"}):
        found = evaluate(pl.DataFrame([{"model": "llama-3.1-8b", "gpu": "h100-sxm"} | point]))
        assert found["reason"][0] == "experts"
    with pytest.raises(EnergylensError, match="no routed experts"):
        loads("llama-3.1-8b")
