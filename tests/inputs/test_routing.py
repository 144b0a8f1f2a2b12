"""Laws of routing, placements, and counts of people: tables against enumeration, words, files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energylens import _core, explore, predict, search, sweep
from energylens.cli import main
from energylens.common.errors import EnergylensError, SpaceError, SpecError
from energylens.engine.evaluate import evaluate
from energylens.engine.expert_loads import loads
from energylens.engine.space import Space
from energylens.inputs.routing import counts, placement_problem, problem, read

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


@pytest.mark.parametrize(("experts", "active", "gpus"), [(8, 2, 8), (8, 2, 4), (4, 3, 4), (32, 4, 8)])
@pytest.mark.parametrize("tokens", [48, 80, 128])
def test_drawn_loads_are_within_one_per_cent_of_simulated_ones(
    experts: int, active: int, gpus: int, tokens: int
) -> None:
    draw = np.random.default_rng(7)
    chosen = np.argsort(draw.random((4000, tokens, experts)), axis=2)[:, :, :active]
    n = np.stack([np.bincount(one.ravel(), minlength=experts) for one in chosen])
    busiest = n.reshape(len(n), gpus, -1).sum(axis=2).max(axis=1).mean()
    _, _, busy, tiles = _core.routing_loads(UNIFORM, experts, active, gpus, 0, [tokens])
    assert busy[0] == pytest.approx(busiest, rel=0.01)
    assert tiles[-1][0] * 256 >= busy[0]


def counted(seed: int, experts: int, active: int) -> list[float]:
    """Return counts of a few popular experts, none of them more than the tokens there are."""
    draw = np.random.default_rng(seed)
    share = np.minimum(0.95, active * draw.dirichlet(np.full(experts, 0.2)))
    for _ in range(50):
        share = np.minimum(0.95, share * active / share.sum())
    return [float(n) for n in np.floor(share * 100_000)]


@pytest.mark.parametrize(("experts", "active", "gpus"), [(8, 2, 4), (128, 8, 8), (128, 8, 32), (256, 8, 32)])
def test_counts_load_the_gpus_as_counted(experts: int, active: int, gpus: int) -> None:
    numbers = counted(experts, experts, active)
    law = json.dumps({"law": "counts", "value": [numbers]})
    of_gpu = np.array(numbers).reshape(gpus, -1).sum(axis=1)
    load = of_gpu.max() * gpus / of_gpu.sum()
    tokens = [2048.0, 16384.0]
    _, _, busy, _ = _core.routing_loads(law, experts, active, gpus, 0, tokens)
    assert [found * gpus / (n * active) for found, n in zip(busy, tokens, strict=True)] == pytest.approx(
        [load, load], rel=0.02
    )
    _, _, few, _ = _core.routing_loads(law, experts, active, gpus, 0, [64.0])
    assert few[0] * gpus / (64 * active) == pytest.approx(load, rel=0.1)


def test_counts_beyond_what_tokens_take_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("expert,tokens\n0,4000\n" + "".join(f"{n},100\n" for n in range(1, 8)))
    with pytest.raises(SpaceError, match=r"an expert with 1\.70 times as many tokens as there are"):
        loads("mixtral-8x7b", routings=[f"counts:{path}"])
    with pytest.raises(SpecError, match="times as many tokens as there are"):
        evaluate(pl.DataFrame([{"model": "mixtral-8x7b", "gpu": "h100-sxm", "routing": f"counts:{path}"}]))


def test_placing_experts_helps_only_where_popularity_lasts() -> None:
    told = loads(
        "qwen3-235b-a22b", gpus=[8], tokens=[1024], routings=["zipf:0.8", "dirichlet:0.35", "power_law:1.2"],
        placements=["contiguous", "balanced"],
    )  # fmt: skip
    load = {(row["routing"], row["placement"]): row["load"] for row in told.to_dicts()}
    assert load["zipf:0.8", "balanced"] < 0.9 * load["zipf:0.8", "contiguous"]
    for law in ("dirichlet:0.35", "power_law:1.2"):
        assert load[law, "balanced"] == pytest.approx(load[law, "contiguous"], rel=0.05)


def test_balanced_tokens_meet_copies_too() -> None:
    law = json.dumps({"law": "balanced"})
    hit, busy_hit, _, _ = _core.routing_loads(law, 128, 8, 8, 17, [4096.0])
    assert (hit[0], busy_hit[0]) == (18, 18)


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
        ("zipf:1_0", "cannot read the exponent"),
        ("counts:", "of which file"),
        (3, "`3` is no law"),
    ],
)
def test_laws_that_cannot_be_read_are_reported(text: object, words: str) -> None:
    found = problem(text)
    assert found is not None
    assert words in found.message


def test_placements_that_cannot_be_read_are_reported() -> None:
    assert placement_problem("replicated:8") is None
    for text in ("replicated", "replicated:0", "replicated:\u00b2", "replicated:\uff14", "random"):
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
        ("expert,tokens\n0,1.5\n1,2\n", "column `tokens` of the counts is not made of whole numbers"),
        ("expert,tokens\n0,inf\n1,2\n", "column `tokens` of the counts is not made of whole numbers"),
        ("expert,tokens\n0.5,1\n1.5,2\n", "column `expert` of the counts is not made of whole numbers"),
        ("expert,tokens\n0,1\n99999999999,2\n", "column `expert` of the counts goes beyond 65,535"),
        ("token,expert\n0,9999999999\n", "column `expert` of the counts goes beyond 65,535"),
        ("token,expert\n0,1\n0,1\n", "a token takes an expert twice"),
        ("token,expert\n0,1\n0,2\n1,1\n", "tokens take 1 to 2 experts"),
    ],
)
def test_counts_that_do_not_sum_are_reported(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        counts(path)


def test_counts_of_choices_are_counted_and_must_fit_the_model(tmp_path: Path) -> None:
    path = tmp_path / "picks.parquet"
    pl.DataFrame({"token": [0, 0, 1, 1], "expert": [0, 1, 1, 2]}).write_parquet(path)
    assert counts(path) == ((1.0, 2.0, 1.0),)
    with pytest.raises(SpaceError, match="counts of 3 experts for a model with 128"):
        loads("qwen3-30b-a3b", routings=[f"counts:{path}"])
    with pytest.raises(SpecError, match="no such file"):
        counts(tmp_path / "none.csv")
    with pytest.raises(SpecError, match="a folder"):
        counts(tmp_path)
    with pytest.raises(SpecError, match="counts of 3 experts for a model with 128"):
        evaluate(pl.DataFrame([{"model": "qwen3-30b-a3b", "gpu": "h100-sxm", "routing": f"counts:{path}"}]))


def test_all_that_is_wrong_with_loads_is_reported_at_once() -> None:
    with pytest.raises(SpaceError) as caught:
        loads("qwen3-235b-a22b", gpus=(3, 5, 8, 0), placements=("replicated:3", "nearby"))
    told = str(caught.value)
    for words in ("`nearby`", "found `0`", "over 3 GPUs", "over 5 GPUs", "3 copies do not divide over 8 GPUs"):
        assert words in told


def test_laws_may_come_from_an_iterator() -> None:
    space = Space("qwen3-235b-a22b", "h100-sxm", routing=iter(["uniform", "zipf:0.5"]))
    assert space.axes["routing"] == ["uniform", "zipf:0.5"]
    assert space.size > 0


def test_a_dense_model_has_nothing_to_route() -> None:
    for axis, value in (("routing", "uniform"), ("placement", "balanced")):
        found = evaluate(pl.DataFrame([{"model": "llama-3.1-8b", "gpu": "h100-sxm", axis: value}]))
        assert found["reason"][0] == axis
    with pytest.raises(EnergylensError, match="no routed experts"):
        loads("llama-3.1-8b")


def test_a_front_does_not_choose_the_friendliest_law(tmp_path: Path) -> None:
    axes: dict[str, Any] = {"models": "qwen3-30b-a3b", "gpus": "h100-sxm", "tp": [2], "ep": [2], "batch": [8, 64]}
    laws = ["zipf:0.8", "uniform"]
    for ask in (explore, search):
        with pytest.raises(SpaceError, match="2 laws of routing, of which a front would take the friendliest"):
            ask(**axes, routing=laws)
    found = explore(**axes, routing=laws, best_per=["routing"])
    assert found.best_per is not None
    assert sorted(found.best_per["routing"].to_list()) == sorted(laws)
    placed = explore(**axes, routing=["uniform"], placement=["contiguous", "balanced"])
    assert placed.by_reason == {"ok": 4}


def test_sweeps_have_laws_and_placements(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("expert,tokens\n" + "".join(f"{n},{10 + n}\n" for n in range(128)))
    space = {"models": "qwen3-30b-a3b", "gpus": "h100-sxm", "tp": 2, "ep": 2, "batch": [8, 64]}
    job = {"name": "routed", "space": space | {"routing": "counts:counts.csv", "placement": ["contiguous", "balanced"]}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    told = sweep(tmp_path / "job.yaml", tmp_path / "out")
    assert told.points == 4
    front = pl.read_parquet(tmp_path / "out" / "front.parquet")
    assert front["routing"].str.ends_with("counts.csv").all()


def test_tokens_sent_to_experts_take_longer_the_more_there_are_and_the_less_even() -> None:
    base = {"model": "deepseek-v3", "gpu": "h200-sxm", "dp": 16, "ep": 16, "prompt_tokens": 512, "output_tokens": 2}

    def sent(batch: int, law: str) -> float:
        kernels = predict(**base, batch=batch, routing=law).kernels  # type: ignore[arg-type]
        one = kernels.filter(pl.col("phase") == "prefill", pl.col("kernel").str.ends_with("experts"))
        return float((one["communication_s"] * one["runs"]).sum())

    even, more = sent(256, "balanced"), sent(512, "balanced")
    skewed = sent(256, "power_law:1.2")
    assert 1.7 * even < more < 2.1 * even
    assert even < skewed < 16 / 5 * even  # a token is sent to a GPU once, to five of sixteen on average
    alone = evaluate(pl.DataFrame([{"model": "qwen3-30b-a3b", "gpu": "h100-sxm", "batch": 8}]), breakdown=True)
    assert alone["energy_prefill_communication_j"][0] == 0


def test_nothing_is_written_for_counts_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text("expert,tokens\n0,5\n1,2\n")
    out = tmp_path / "front.parquet"
    asked = [
        "explore",
        "qwen3-30b-a3b",
        "--gpu",
        "h100-sxm",
        "--routing",
        f"counts:{tmp_path}/c.csv",
        "--out",
        str(out),
    ]
    assert main(asked) == 2
    assert "counts of 2 experts for a model with 128" in capsys.readouterr().err
    assert not out.exists()


def test_long_words_are_shown_in_short() -> None:
    words: list[object] = ["x" * 100_000, "zipf:" + "9" * 5000, "counts", "dirichlet:" + "1" * 9000, 10**5000]
    for text in words:
        wrong = problem(text)
        assert wrong is not None and len(wrong.message) < 200
    words = ["replicated:" + "9" * 5000, "x" * 100_000, "replicated:\u00b2", None, 10**5000]
    for text in words:
        wrong = placement_problem(text)
        assert wrong is not None and len(wrong.message) < 200
    assert placement_problem("replicated:0032") is None
