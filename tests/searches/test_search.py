"""`search` with pymoo: what it keeps, what it counts, and that a broken-off search goes on as if it were not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.algorithms.moo.gde3 import GDE3
from pymoo.algorithms.moo.moead import MOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.core.population import Population
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.termination import get_termination

from energylens import Space, explore, search
from energylens._core import REASONS, non_dominated
from energylens.common.errors import SpaceError
from energylens.searches import checkpoint, pymoo_engine
from energylens.searches.archive import Archive, KeySet
from energylens.searches.columns import ColumnMating, Columns, ColumnSurvival
from energylens.searches.problem import SameKey, SpaceProblem
from energylens.searches.selection import dominance_then_crowding, tournament

SPACE = Space(
    models=["llama-3.1-70b", "qwen3-30b-a3b"],
    gpus=["h100-sxm", "b200", "l40s"],
    tp=[1, 2, 3, 4, 8],
    pp=[1, 2, 4],
    ep=[1, 2],
    batch=list(range(1, 101)),
    prompt_tokens=[512, 2048],
    output_tokens=256,
    weight_dtype=[None, "fp8"],
    kv_dtype=[None, "fp8"],
    limits=["tpot<=40ms"],
)
THREE = replace(SPACE, objectives=["energy_per_output_token_j", "latency_s", "output_tokens_per_s_per_gpu"])


def run(space: Space = SPACE, **arguments: Any) -> Archive:
    usual: dict[str, Any] = {"population": 60, "generations": 15, "seed": 5, "threads": 2}
    return pymoo_engine.run(space, **usual | arguments)


def same(a: Archive, b: Archive) -> bool:
    counts = (a.points, a.by_reason, a.outside) == (b.points, b.by_reason, b.outside)
    return counts and np.array_equal(a.keys, b.keys) and np.array_equal(a.values, b.values)


def hypervolume(rows: NDArray[Any], reference: NDArray[Any]) -> float:
    return float(moocore.hypervolume(rows, ref=reference))


@pytest.mark.parametrize("algorithm", ["nsga2", "spea2"])
@pytest.mark.parametrize("space", [SPACE, THREE])
def test_the_archive_is_the_front_of_all_points_met(
    space: Space, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations: list[NDArray[np.int64]] = []
    meet = SpaceProblem.meet

    def spy(self: SpaceProblem, keys: NDArray[np.int64]) -> Any:
        generations.append(keys)
        return meet(self, keys)

    monkeypatch.setattr(SpaceProblem, "meet", spy)
    archive = run(space, algorithm=algorithm)
    assert len(generations) == 15
    assert all(len(np.unique(keys)) == len(keys) == 60 for keys in generations[1:])
    met = np.unique(np.concatenate(generations))
    measured = SpaceProblem(space, 1).measure(met)
    inside, rows = met[measured.inside], measured.objectives[measured.inside]
    best = non_dominated(rows.tolist())
    assert np.array_equal(archive.keys, inside[best])
    assert np.array_equal(archive.values, rows[best])
    assert archive.points == len(met)
    counts = np.bincount(measured.reasons, minlength=len(REASONS))
    assert archive.by_reason == {name: n for name, n in zip(REASONS, counts.tolist(), strict=True) if n}
    assert archive.outside == archive.by_reason["ok"] - len(inside)


def test_the_front_is_not_capped_by_the_population() -> None:
    assert len(run(THREE, population=20, generations=40).keys) > 20


def test_a_key_set_is_a_set() -> None:
    random, keys, known = np.random.default_rng(1), KeySet(), set[int]()
    for size in random.integers(0, 200, 60):
        some = np.unique(random.integers(0, 4000, size))
        held = keys.holds(some)
        assert held.tolist() == [key in known for key in some.tolist()]
        keys.add(some[~held])
        known |= set(some.tolist())
        assert len(keys) == len(known)
    assert keys.sorted().tolist() == sorted(known)


def test_keys_and_variables_are_one_to_one() -> None:
    problem = SpaceProblem(SPACE, 1)
    keys = np.arange(SPACE.size, dtype=np.int64)
    assert np.array_equal(problem.keys(problem.variables(keys)), keys)
    digits = SPACE.plan.core.space_digits(SPACE.json, keys.astype(np.uint64))
    free = [digits[name] for name, values in SPACE.axes.items() if len(values) > 1]
    assert np.array_equal(problem.variables(keys), np.column_stack(free))


def test_offspring_are_new_and_different() -> None:
    problem, random = SpaceProblem(SPACE, 1), np.random.default_rng(2)
    keys = np.unique(random.integers(0, 3000, 80))
    pop = Columns(X=problem.variables(keys), key=keys, crowding=np.ones(len(keys)))
    pop.measured(problem.measure(keys))
    off = ColumnMating().do(problem, pop, 500, random)
    assert len(off) == len(np.unique(off.get("key"))) == 500
    assert not np.isin(off.get("key"), keys).any()
    assert np.array_equal(problem.keys(off.get("X")), off.get("key"))


def test_same_key_keeps_the_first_of_equals() -> None:
    same_key = SameKey(SpaceProblem(SPACE, 1))
    x = SpaceProblem(SPACE, 1).variables(np.array([3, 5, 3, 9, 5, 7]))
    pop = Population.new(X=x + 0.2)
    assert np.array_equal(same_key.do(pop).get("X"), x[[0, 1, 3, 5]] + 0.2)
    assert np.array_equal(same_key.do(pop, Population.new(X=x[[1]])).get("X"), x[[0, 3, 5]] + 0.2)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_survival_and_tournament_are_those_of_pymoo(objectives: int) -> None:
    random = np.random.default_rng(objectives)
    problem = SpaceProblem(SPACE, 1)
    keys = np.unique(random.integers(0, SPACE.size, 300))
    f, g = random.integers(0, 12, (len(keys), objectives)).astype(float), random.normal(-1.0, 1.0, (len(keys), 2))
    g[::2] = -1.0
    plain = Population.new(X=problem.variables(keys), F=f, G=g, place=np.arange(len(keys)))
    pop = Columns(X=problem.variables(keys), key=keys, place=np.arange(len(keys)))
    pop.columns |= {"F": f, "cv": np.maximum(g, 0).sum(1), "CV": np.maximum(g, 0).sum(1)[:, None]}
    for survivors in (100, 280):
        expected = RankAndCrowding().do(problem, plain, n_survive=survivors, random_state=np.random.default_rng(3))
        selected = ColumnSurvival().do(problem, pop, n_survive=survivors, random_state=np.random.default_rng(3))
        assert np.array_equal(selected.get("place"), expected.get("place"))
        feasible = selected.get("cv") <= 0
        for name in ("rank", "crowding"):
            assert np.array_equal(selected.get(name)[feasible], expected.get(name)[feasible].astype(float))
    pairs = random.integers(0, len(selected), (400, 2))
    nsga2 = NSGA2()
    nsga2.random_state = random
    a = binary_tournament(expected, pairs, nsga2)
    b = tournament(dominance_then_crowding).func_comp(selected, pairs, random_state=random)
    shown = [expected[side[:, 0]].get("F", "CV", "crowding") for side in (a, b)]
    for name, left, right in zip(("F", "CV", "crowding"), *shown, strict=True):
        tied = (shown[0][1] == shown[1][1]).all(axis=1) & (name == "F")
        assert (tied | (left == right).reshape(len(pairs), -1).all(axis=1)).all()


def test_the_same_seed_gives_the_same_front() -> None:
    first = search(SPACE, method="pymoo", population=50, generations=10, seed=4)
    assert search(SPACE, method="pymoo", population=50, generations=10, seed=4, threads=1).frame.equals(first.frame)
    assert not same(run(seed=1), run(seed=2))


@pytest.mark.parametrize("space", [SPACE, THREE])
@pytest.mark.parametrize("algorithm", ["nsga3", "unsga3", "smsemoa", "spea2", "rvea", "ctaea"])
def test_other_algorithms_run(space: Space, algorithm: str) -> None:
    result = run(space, algorithm=algorithm, generations=8)
    assert result.points > 300
    assert len(result.keys)
    assert same(result, run(space, algorithm=algorithm, generations=8))


@pytest.mark.parametrize("algorithm", [NSGA2(pop_size=40), GDE3(pop_size=20)])
def test_a_user_algorithm_runs(algorithm: Any) -> None:
    result = run(algorithm=algorithm, termination=get_termination("n_eval", 400))
    assert 100 < result.points <= 400
    assert same(result, run(algorithm=algorithm, termination=get_termination("n_eval", 400)))
    assert search(SPACE, algorithm=algorithm, generations=3).method == f"pymoo {type(algorithm).__name__.lower()}"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("nsga4", "unknown algorithm `nsga4`\nhint: did you mean `nsga"),
        ("moead", "takes no constraints"),
        (MOEAD(np.eye(2)), "pymoo cannot run `MOEAD`"),
    ],
)
def test_what_cannot_run_is_an_error(algorithm: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        run(algorithm=algorithm)


def test_one_objective_has_no_directions() -> None:
    single = replace(SPACE, objectives=["energy_per_request_j"])
    with pytest.raises(SpaceError, match="needs two or more objectives"):
        run(single, algorithm="nsga3")
    best = explore(single).frame["energy_per_request_j"][0]
    assert run(single, generations=40).values.min() == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(("objectives", "population"), [(2, 2), (2, 101), (3, 100), (6, 30), (6, 300)])
def test_directions_fit_the_population(objectives: int, population: int) -> None:
    directions = pymoo_engine.directions(objectives, population)
    assert population / 3 <= len(directions) <= population
    assert np.allclose(directions.sum(axis=1), 1.0)


def test_a_termination_of_pymoo_ends_a_search() -> None:
    advances: list[int] = []
    run(termination=get_termination("moo", n_max_gen=6), advance=advances.append)
    assert advances == [1] * 6


@pytest.mark.parametrize("points", [1, 2, 5])
def test_a_tiny_space_is_searched(points: int) -> None:
    tiny = Space(models="llama-3.1-8b", gpus="h100-sxm", tp=1, batch=list(range(1, points + 1)))
    result = search(tiny, method="pymoo", population=10, generations=20)
    assert result.points == points
    assert result.frame.equals(explore(tiny).frame)
    nothing = search(replace(tiny, models="llama-3.1-405b"), method="pymoo", population=10, generations=5)
    assert nothing.by_reason == {"memory": points}
    assert nothing.frame.height == 0


class BrokenOff(Exception):
    pass


def broken_off(path: Path, generation: int, space: Space = SPACE, **arguments: Any) -> None:
    left = [generation]

    def advance(done: int) -> None:
        left[0] -= done
        if left[0] < 0:
            raise BrokenOff

    with pytest.raises(BrokenOff):
        run(space, checkpoint=path, advance=advance, **arguments)


@pytest.mark.parametrize("space", [SPACE, THREE])
def test_a_broken_off_search_goes_on(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "_SECONDS_FIRST", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", 1e9)
    path = tmp_path / "new" / "search.npz"
    undisturbed = run(space)
    for generation in (1, 6, 11):
        broken_off(path, generation, space)
    assert [file.name for file in path.parent.iterdir()] == ["search.npz"]
    advances: list[int] = []
    assert same(run(space, checkpoint=path, advance=advances.append), undisturbed)
    assert advances == [11, 1, 1, 1, 1]
    assert same(run(space, checkpoint=path), undisturbed)
    assert same(run(space, checkpoint=path, generations=25, threads=1), run(space, generations=25))
    with pytest.raises(SpaceError, match="is at generation 25, beyond 20"):
        run(space, checkpoint=path, generations=20)


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    run(generations=2, checkpoint=path)
    for space, arguments, what in (
        (SPACE, {"seed": 6}, "seed"),
        (SPACE, {"population": 61}, "population"),
        (THREE, {}, "objectives"),
        (replace(SPACE, limits=["tpot<=30ms"]), {}, "limits"),
        (replace(SPACE, batch=[1, 2]), {}, "axes"),
        (replace(SPACE, gpus=["h100-sxm", "b200", "h200-sxm"]), {}, "models and GPUs"),
    ):
        with pytest.raises(SpaceError, match=f"is of another search: not the same {what}"):
            run(space, checkpoint=path, **arguments)


@pytest.mark.parametrize("length", [0, 1, 100, 0.5, 0.9, -1])
def test_a_damaged_checkpoint_is_refused(length: float, tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    run(generations=2, checkpoint=path)
    intact = path.read_bytes()
    path.write_bytes(intact[: int(length if length not in (0.5, 0.9) else length * len(intact))])
    with pytest.raises(SpaceError, match="is damaged or no checkpoint"):
        run(generations=2, checkpoint=path)


def test_a_checkpoint_out_of_the_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    run(generations=2, checkpoint=path)
    arrays = dict(np.load(path))
    for name, value in (
        ("front", np.array([SPACE.size])),
        ("population", arrays["population"][:-1]),
        ("seen", arrays["seen"].astype(float)),
        ("numbers", np.array("{}")),
    ):
        with path.open("wb") as file:
            np.savez(file, **arrays | {name: value})
        with pytest.raises(SpaceError, match="is damaged or no checkpoint"):
            run(generations=2, checkpoint=path)


@pytest.mark.parametrize("arguments", [{"algorithm": "spea2"}, {"termination": get_termination("n_gen", 3)}])
def test_only_nsga2_has_checkpoints(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="only `nsga2` without a termination of its own"):
        run(checkpoint=tmp_path / "search.npz", **arguments)


@pytest.mark.parametrize("space", [SPACE, THREE])
def test_the_searched_front_is_near_the_exact_front(space: Space) -> None:
    exact, result = explore(space), run(space, population=200, generations=60)
    signs = [sign for _, sign in space.signed_objectives]
    rows = exact.frame.select(list(space.objectives)).to_numpy() * signs
    reference = rows.max(axis=0) + 0.1 * np.ptp(rows, axis=0)
    assert result.points < space.size / 4
    assert hypervolume(result.values, reference) >= 0.995 * hypervolume(rows, reference)


def test_native_is_the_same_on_any_number_of_threads_and_counts_what_it_met() -> None:
    single_threaded, two_threaded = (
        search(THREE, method="native", population=80, generations=20, seed=9, threads=n) for n in (1, 2)
    )
    assert single_threaded.frame.equals(two_threaded.frame)
    assert single_threaded.points == sum(single_threaded.by_reason.values()) == 80 * 20
    assert (single_threaded.by_reason, single_threaded.outside_limits) == (
        two_threaded.by_reason,
        two_threaded.outside_limits,
    )
    assert not single_threaded.frame.equals(
        search(THREE, method="native", population=80, generations=20, seed=10).frame
    )


def test_native_meets_every_point_of_a_space_that_is_small_enough() -> None:
    tiny = replace(SPACE, batch=[1, 8, 64], models="llama-3.1-70b", gpus="h100-sxm")
    result, exact = search(tiny, method="native", population=50, generations=1000), explore(tiny)
    assert result.points == tiny.size
    assert result.by_reason == exact.by_reason
    assert result.outside_limits == exact.outside_limits
    assert result.frame.equals(exact.frame)


def test_native_goes_on_from_its_checkpoint_as_if_never_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    usual: dict[str, Any] = {"method": "native", "population": 70, "seed": 3}
    uninterrupted = search(THREE, generations=30, **usual)
    search(THREE, generations=11, checkpoint=path, **usual)
    resumed = search(THREE, generations=30, checkpoint=path, **usual)
    assert resumed.frame.equals(uninterrupted.frame)
    assert (resumed.points, resumed.by_reason) == (uninterrupted.points, uninterrupted.by_reason)
    with pytest.raises(SpaceError, match="beyond 5"):
        search(THREE, generations=5, checkpoint=path, **usual)
    with pytest.raises(SpaceError, match="another search: not the same seed"):
        search(THREE, generations=30, checkpoint=path, **usual | {"seed": 4})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SpaceError, match="damaged"):
        search(THREE, generations=30, checkpoint=path, **usual)


@pytest.mark.parametrize("method", ["native", "pymoo"])
def test_a_search_ends_when_the_hypervolume_stalls(method: str) -> None:
    result = search(SPACE, method=method, population=60, generations=100_000, patience=15, tolerance=1e-3)
    assert 60 * 15 < result.points < 60 * 1000
    with pytest.raises(SpaceError, match="`patience` should be 1 or more"):
        search(SPACE, method=method, patience=0)


@pytest.mark.parametrize("method", ["native", "pymoo"])
def test_patience_goes_on_from_a_checkpoint_where_it_was(method: str, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"method": method, "population": 60, "patience": 8, "tolerance": 1e-3}
    uninterrupted = search(SPACE, generations=1000, **usual)
    path = tmp_path / "search.npz"
    for generations in (5, 12, 1000, 1000):
        result = search(SPACE, generations=generations, checkpoint=path, **usual)
    assert result.points == uninterrupted.points
    assert result.frame.equals(uninterrupted.frame)


def test_a_search_that_is_interrupted_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from energylens.searches import native

    path = tmp_path / "search.npz"
    usual: dict[str, Any] = {"population": 60, "seed": 1, "threads": 1}

    def interrupt(_generations: int) -> None:
        if path.exists() or len(advances) == 7:
            raise KeyboardInterrupt
        advances.append(1)

    advances: list[int] = []
    with pytest.raises(KeyboardInterrupt, match="after generation 8; the same command goes on from"):
        native.run(SPACE, generations=30, advance=interrupt, checkpoint=path, **usual)
    resumed = native.run(SPACE, generations=30, checkpoint=path, **usual)
    assert np.array_equal(resumed.best()["indices"], native.run(SPACE, generations=30, **usual).best()["indices"])


def test_two_threads_may_use_one_reduction() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from energylens.engine.reductions import Keep

    reduction = Keep().reduction(SPACE)
    points = np.arange(0, SPACE.size, 997, dtype=np.uint64)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(reduction.merge, points, [], [0] * 7, 0, 1) for _ in range(60)]:
            done.result(timeout=60)


def test_a_search_of_a_nearly_exhausted_space_ends() -> None:
    space = Space("llama-3.1-8b", "h100-sxm", tp=1, batch=range(1, 301), prompt_tokens=range(1, 334))
    result = search(space, method="native", population=9_000, generations=100)
    assert result.points == space.size


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(SpaceError, match="unknown method `nativ`"):
        search(SPACE, method="nativ")
    with pytest.raises(
        SpaceError, match="`algorithm` and method `native` exclude each other: only pymoo lets one choose it"
    ):
        search(SPACE, method="native", algorithm="nsga3")
