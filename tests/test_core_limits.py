"""What the core is handed is checked before it is used: sizes, numbers, arrays; what it keeps has bounds."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

import energylens
from energylens import Space, _core
from energylens.common.errors import EnergylensError
from energylens.common.memory import MemoryBudgetError
from energylens.engine.reductions import Keep
from energylens.inputs import run_options
from energylens.inputs.crossing import Point, PointColumns
from energylens.inputs.plan import canonical

NSGA: Any = _core.Nsga
REDUCTION: Any = _core.Reduction
"""Without their types, which wrong arguments do not have."""

HUGE = (-1, 2**32, 2**64, 10**30, -(10**30))


@pytest.fixture(scope="module")
def space() -> Space:
    return Space("llama-3.1-8b", "h100-sxm", batch=[1, 2, 4], prompt_tokens=[64, 512])


def codes(call: Callable[..., object]) -> list[str]:
    """Return the codes of the problems that a call is refused with."""
    with pytest.raises(_core.PlanError) as error:
        call()
    return [problem.code for problem in error.value.problems]


OPTIONS = run_options.for_core({})


@pytest.mark.parametrize("number", HUGE)
def test_numbers_that_do_not_fit_are_refused_with_their_value(space: Space, number: int) -> None:
    core: Any = space.plan.core
    for axis in ("model", "gpu", "tp", "pp", "dp", "ep"):
        point = Point(**cast("Any", {axis: number}))
        with pytest.raises(_core.PlanError, match=str(number).replace("-", r"\-")):
            core.why_not(point)
    for axis in ("cp", "overlap_stages", "overlap_sms", "sm_clock_mhz", "power_cap_w", "routing", "placement"):
        point = Point(run_options=OPTIONS | {axis: number})
        assert codes(lambda point=point: core.why_not(point)) == ["number"]
    indices = np.array([0], dtype=np.uint64)
    if not 0 <= number < 2**64:
        assert codes(lambda: core.evaluate_space(space.json, indices, ["energy_j"], number)) == ["number"]
        assert codes(lambda: Keep().reduction(space).run(number, 4, 1)) == ["number"]
        assert codes(lambda: _core.prefix_hit_tokens([0], [0, 1], number, [16])) == ["number"]
        assert codes(lambda: _core.routing_fault('{"law":"uniform"}', number, 1)) == ["number"]
    law = '{"law":"uniform"}'
    assert codes(lambda: _core.routing_loads(law, number, 1, 1, 0, [1.0])) in (["number"], ["experts"])
    parts: tuple[Any, ...] = (core, space.json, [("energy_j", 1.0)], [])
    assert codes(lambda: NSGA(*parts, number, 1)) in (["number"], ["population"])
    assert codes(lambda: REDUCTION(*parts, None, number)) in (["number"], ["top"])
    assert codes(lambda: core.parameters(number)) in (["number"], ["model"])
    assert codes(lambda: core.collective(0, "all_reduce", number, None, None, [1.0])) in (["number"], ["gpus"])


def test_a_draw_of_watts_is_of_sizes_that_can_be_calculated_with(space: Space) -> None:
    core: Any = space.plan.core
    for number in HUGE:
        assert codes(lambda number=number: core.drawn_w(Point(tp=number))) == ["number"]
    for size in (0.0, -1.0, np.nan, np.inf):
        for name in ("batch", "prompt_tokens", "output_tokens"):
            point = Point(**cast("Any", {name: size}))
            assert codes(lambda point=point: core.drawn_w(point)) == ["size"]


def test_a_point_without_one_of_its_axes_is_refused_by_name(space: Space) -> None:
    core: Any = space.plan.core
    for axis in OPTIONS:
        point = Point(run_options={name: value for name, value in OPTIONS.items() if name != axis})
        with pytest.raises(_core.PlanError, match=f"`{axis}` is missing"):
            core.drawn_w(point)
    with pytest.raises(AttributeError, match="run_options"):
        core.drawn_w(object())


def test_errors_of_the_core_have_attributes(space: Space) -> None:
    content = copy.deepcopy(space.plan.content)
    content["models"][0]["blocks"][0]["kernels"][0]["equations"][0] += " +"
    with pytest.raises(_core.PlanError) as error:
        _core.Plan(canonical(content))
    (problem,) = error.value.problems
    assert problem.path[:3] == ["models", 0, "blocks"]
    assert problem.span is not None
    assert problem.message == str(error.value)
    assert problem.code in repr(problem)
    assert _core.PlanError.problems == ()


def test_a_rank_beyond_all_is_no_state_of_a_search(space: Space) -> None:
    search = NSGA(space.plan.core, space.json, [("energy_j", 1.0)], [], 4, 1)
    search.step(1)
    state = search.state()
    search.restore(state, 1)
    state["rank"] = state["rank"] + np.uint64(1 << 32)
    assert codes(lambda: search.restore(state, 1)) == ["state"]


def test_degrees_of_parallelism_beyond_all_are_refused_by_name() -> None:
    for name in ("tp", "pp", "dp", "ep", "cp"):
        for degree in (0, -1, 1025, 2**32, 10**30):
            with pytest.raises(EnergylensError) as error:
                energylens.predict("qwen3-30b-a3b", **cast("Any", {name: degree}))
            assert error.value.problems, name


def evaluated(space: Space, **changes: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {name: np.ones(4, dtype=np.uint32) for name in ("tp", "pp", "dp", "ep")}
    columns |= {
        name: np.zeros(4, dtype=np.uint32) for name in ("model", "gpu", "weight_dtype", "kv_dtype", "run_option")
    }
    columns |= {name: np.full(4, 8.0) for name in ("batch", "prompt_tokens", "output_tokens")}
    columns |= changes
    points = PointColumns(dtypes=[None], run_options=[OPTIONS], **columns)
    return space.plan.core.evaluate(points, ["energy_j"], 1)


def test_arrays_are_checked(space: Space) -> None:
    assert np.isfinite(evaluated(space)["energy_j"]).all()
    wrong: dict[str, Any] = {
        "tp": np.ones(8, dtype=np.uint32)[::2], "batch": np.full(8, 8.0)[::2], "pp": np.ones(4, dtype=np.int64),
        "prompt_tokens": np.full(4, 8, dtype=np.int64), "dp": np.ones((2, 2), dtype=np.uint32),
    }  # fmt: skip
    for name, array in wrong.items():
        with pytest.raises((TypeError, ValueError)) as error:
            evaluated(space, **{name: array})
        assert not isinstance(error.value, OverflowError)
    assert codes(lambda: evaluated(space, ep=np.ones(3, dtype=np.uint32))) == ["rows"]
    assert codes(lambda: evaluated(space, run_option=np.full(4, 1, dtype=np.uint32))) == ["run-options"]
    assert codes(lambda: evaluated(space, weight_dtype=np.full(4, 9, dtype=np.uint32))) == ["dtype"]
    for size in (0.0, -1.0, np.nan, np.inf, 1e300):
        for name in ("batch", "prompt_tokens", "output_tokens"):
            assert codes(lambda name=name, size=size: evaluated(space, **{name: np.array([1, 1, size, 1])})) == ["size"]
    beyond = evaluated(space, model=np.full(4, 2**32 - 1, dtype=np.uint32), tp=np.full(4, 2**32 - 1, dtype=np.uint32))
    assert (beyond["reason"] == _core.REASONS.index("shard")).all()


def test_what_is_retained_of_a_space_is_bounded(space: Space) -> None:
    parts: tuple[Any, ...] = (space.plan.core, space.json, [("energy_j", 1.0)], [])
    assert codes(lambda: REDUCTION(*parts, None, 10**12)) == ["top"]
    assert codes(lambda: REDUCTION(*parts, None, 0, None, ["energy_j", "energy_j"])) == ["distributions"]
    assert codes(lambda: REDUCTION(*parts, None, 0, ["tp", "tp"])) == ["groups"]
    for sign in (0.0, 2.0, np.nan):
        objectives = [("energy_j", sign)]
        assert codes(lambda o=objectives: _core.Reduction(space.plan.core, space.json, o, [])) == ["objectives"]
    bounds = [("energy_j", np.nan, 1.0)]
    assert codes(lambda: _core.Reduction(space.plan.core, space.json, parts[2], bounds)) == ["bounds"]
    with pytest.raises(EnergylensError, match="1,000,000"):
        energylens.explore(space, top=10**12)


def test_rows_of_unlike_length_or_no_number_are_refused() -> None:
    assert _core.non_dominated([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]]) == [0, 1]
    for rows in ([[1.0], [1.0, 2.0]], [[1.0] * 7], [[1.0, float("nan")]]):
        assert codes(lambda rows=rows: _core.non_dominated(rows)) == ["objectives"]


GRID: dict[str, Any] = {
    "tokens": [1.0], "base_s": [1.0], "base_j": [1.0], "sequences": [1.0], "contexts": [1.0], "decode_s": [0.0],
    "decode_j": [0.0], "sample_s": 0.0, "sample_j": 0.0, "lengths": [], "attend_s": [], "attend_j": [],
}  # fmt: skip
ENGINE: dict[str, Any] = {
    "most_running": 8, "token_budget": 64, "cache_tokens": 1000, "chunked": True, "reads": True, "block_tokens": 16,
    "prefix_hit_share": 0.0, "lanes": 1, "idle_w": 10.0, "warm_s": 0.0,
}  # fmt: skip


def replayed(blocks: list[int], starts: list[int], engine: dict[str, Any], grid: dict[str, Any]) -> dict[str, Any]:
    sizes = np.full(3, 40, dtype=np.uint32)
    return _core.replay(grid, engine, np.array([0.0, 50.0, 100.0]), sizes, sizes, blocks, starts)


def test_blocks_are_numbered_without_gaps() -> None:
    assert replayed([0, 1, 0, 1, 0, 2], [0, 2, 4, 6], ENGINE, GRID)["prefix_hit_tokens"] == 48
    assert _core.prefix_hit_tokens([0, 3, 0, 3], [0, 2, 4], 16, [0, 16, 32]) == [0, 16, 32]
    for blocks, starts in (([1], [0, 1]), ([2**32 - 1], [0, 1]), ([0], [0, 2]), ([0, 0], [2, 0, 9, 1])):
        assert codes(lambda b=blocks, s=starts: replayed(b, s, ENGINE, GRID)) == ["requests"]
        assert codes(lambda b=blocks, s=starts: _core.prefix_hit_tokens(b, s, 16, [16])) == ["requests"]
    assert codes(lambda: replayed([2**32], [0, 1], ENGINE, GRID)) == ["number"]


@pytest.mark.parametrize("field", ["most_running", "token_budget", "cache_tokens", "block_tokens", "lanes"])
def test_engines_of_no_size_are_refused(field: str) -> None:
    for number in (-1, 2**64, 10**30):
        assert codes(lambda number=number: replayed([], [], ENGINE | {field: number}, GRID)) == ["engine"]
    wrong: dict[str, Any]
    for wrong in ({"idle_w": np.inf}, {"warm_s": np.nan}, {"prefix_hit_share": 1.5}, {"prefix_hit_share": np.nan}):
        assert codes(lambda wrong=wrong: replayed([], [], ENGINE | wrong, GRID)) == ["engine"]
    for wrong in ({"base_s": [np.nan]}, {"sample_s": np.inf}, {"decode_j": [1.0, 2.0]}, {"tokens": []}):
        assert codes(lambda wrong=wrong: replayed([], [], ENGINE, GRID | wrong)) == ["steps"]


def test_a_frame_beyond_the_budget_is_refused_before_it_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    points = pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "batch": np.ones(400_000, dtype=np.int64)})
    monkeypatch.setenv("ENERGYLENS_MEMORY", "64MB")
    with pytest.raises(MemoryBudgetError, match="400,000 points with 17 result columns would need 1"):
        energylens.evaluate(points)
    assert energylens.evaluate(points.head(1000))["feasible"].all()


WALK = """
import resource, energylens
ways = {"sm_clock_mhz": range(1000, 1981, 5), "power_cap_w": range(300, 701, 2)}
sizes = {"tp": 1, "batch": 1, "prompt_tokens": 512, "output_tokens": 128}
explored = energylens.explore(energylens.Space("llama-3.1-8b", "h100-sxm", **sizes, **ways))
assert explored.points == 39_597, explored.points
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the unit of maximum memory is Linux's")
def test_memory_does_not_grow_with_clocks_and_caps() -> None:
    environment = os.environ | {"ENERGYLENS_MEMORY": "256MB"}
    done = subprocess.run([sys.executable, "-c", WALK], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    # Each way of running by itself takes some 27 kB, which would be more than 1 GB.
    assert int(done.stdout) < 450e6


def test_a_plan_keeps_no_more_than_its_bytes() -> None:
    space = Space("llama-3.1-8b", "h100-sxm", sm_clock_mhz=range(1000, 1981, 20), power_cap_w=range(300, 701, 20))
    core = _core.Plan(space.plan.json, 1 << 20)
    indices = np.arange(space.size, dtype=np.uint64)
    small = core.evaluate_space(space.json, indices, ["energy_j"], 2)
    entries, kept = core.cached()
    assert entries > 10
    assert kept <= 1 << 20
    none = _core.Plan(space.plan.json, 0).evaluate_space(space.json, indices[::-1].copy(), ["energy_j"], 1)
    assert small["energy_j"].tobytes() == none["energy_j"][::-1].tobytes()


def test_sixty_five_thousand_experts_are_the_most() -> None:
    hit, *_ = _core.routing_loads('{"law":"dirichlet","value":0.5}', 65_536, 8, 64, 0, [64.0])
    assert 0 < hit[0] <= 1024
    assert codes(lambda: _core.routing_loads('{"law":"uniform"}', 65_537, 1, 1, 0, [1.0])) == ["experts"]
    for tokens in (-1.0, np.nan, np.inf, 1e300):
        assert codes(lambda n=tokens: _core.routing_loads('{"law":"uniform"}', 8, 2, 1, 0, [n])) == ["tokens"]
    for law in ('{"law":"dirichlet","value":-1e300}', '{"law":"zipf","value":1e300}', '{"law":"counts","value":[]}'):
        assert codes(lambda law=law: _core.routing_loads(law, 8, 2, 1, 0, [1.0])) == ["routing"]
