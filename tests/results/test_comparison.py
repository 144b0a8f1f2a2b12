"""Points as people name them, and two of them side by side."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import energylens
from energylens.common.errors import EnergylensError
from energylens.engine.result_columns import ENERGY
from energylens.reports.subject import read_subject
from energylens.results.point import read_point


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = energylens.explore(models="llama-3.1-8b", gpus=["h100-sxm", "b200"], sm_clock_mhz=[None, 1200])
    return found.write(tmp_path_factory.mktemp("front") / "front.parquet")


def test_rows_of_a_file_are_points(front: Path) -> None:
    frame = pl.read_parquet(front)
    assert read_point(front).row[ENERGY] == frame[ENERGY][0]
    last = frame.height - 1
    point = read_point(f"{front}#{last}")
    assert point.row[ENERGY] == frame[ENERGY][last]
    assert point.source is not None
    assert "Llama-3.1-8B" in point.source
    # The same point in words gives the same joules.
    row = point.row
    clock = row["sm_clock_mhz"] or "default"
    words = f"llama-3.1-8b; gpu={row['gpu']}; tp={row['tp']}; batch={row['batch']}; sm_clock_mhz={clock}"
    assert read_point(words).row[ENERGY] == pytest.approx(row[ENERGY], rel=1e-12)


def test_a_page_of_yaml_is_a_point(tmp_path: Path) -> None:
    text = Path(str(energylens.inputs.bundled.bundled("models")["llama-3.1-8b"])).read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("name: llama-3.1-8b", "name: mine"), encoding="utf-8")
    (tmp_path / "point.yaml").write_text("model: mine.yaml\ngpu: h100-sxm\ntp: 2\nbatch: 8\n", encoding="utf-8")
    point = read_point(tmp_path / "point.yaml")  # its model lies beside it
    assert point.words() == "mine on 2 x h100-sxm, tp 2, batch 8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("llama-3.1-8b; gpu=h100-sxm; tp", "cannot read `tp` of the point"),
        ("llama-3.1-8b; gpu=h100-sxm; tp=2; tp=4", "gives `tp` twice"),
        ("llama-3.1-8b; gpu=h100-sxm; tp=two", "`tp` should be"),
        ("llama-3.1-8b; gpu=h100-sxm; batches=2", "unknown field `batches`"),
        ("llama-3.1-8b; gpu=h100-sxm; weight_dtype=fp9", "unknown data type `fp9`"),
        ("llama-3.1-8b", "missing field `gpu`"),
        ("llama-3.1-405b; gpu=h100-sxm", "needs"),
        ("llama-3.1-70b; gpu=h100-sxm; tp=3", "8"),
        ("nothing.parquet", "cannot read"),
        ("nothing.yaml", "cannot read"),
    ],
)
def test_what_is_no_point_is_reported(text: str, message: str) -> None:
    with pytest.raises(EnergylensError, match=message):
        read_point(text)


def test_files_without_points_are_reported(front: Path, tmp_path: Path) -> None:
    with pytest.raises(EnergylensError, match="has no row `9999`"):
        read_point(f"{front}#9999")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(EnergylensError, match="holds no points"):
        read_point(tmp_path / "a.parquet")


def test_changes_sum_to_the_difference() -> None:
    found = energylens.compare(
        "llama-3.1-70b; gpu=h100-sxm; tp=4; batch=64", {"model": "llama-3.1-70b", "gpu": "b200", "tp": 2, "batch": 64}
    )
    assert found.axes.rows() == [("gpu", "h100-sxm", "b200"), ("tp", "4", "2")]
    before, after = found.before.row[ENERGY], found.after.row[ENERGY]
    assert found.causes["change_j"].sum() == pytest.approx(after - before, rel=1e-9)
    assert found.operations is not None
    assert found.operations["change_j"].sum() == pytest.approx(after - before, rel=1e-9)
    assert found.causes["change_j"].abs().is_sorted(descending=True)


def test_a_point_does_not_differ_from_itself(front: Path) -> None:
    found = energylens.compare(front, front)
    assert found.axes.height == 0
    assert set(found.results["change"].drop_nulls()) == {0.0}
    assert found.causes["change_j"].abs().max() == 0.0


def test_a_waterfall_leads_from_one_to_the_other() -> None:
    pytest.importorskip("altair")
    found = energylens.compare("llama-3.1-8b; gpu=h100-sxm", "llama-3.1-8b; gpu=h100-sxm; batch=32")
    (rows,) = found.plot.waterfall().to_dict()["datasets"].values()
    assert rows[0]["to"] == pytest.approx(found.before.row[ENERGY])
    assert rows[-2]["to"] == pytest.approx(rows[-1]["to"])
    assert rows[-1]["to"] == pytest.approx(found.after.row[ENERGY])


def test_kinds_do_not_mix_and_both_points_are_checked(front: Path, tmp_path: Path) -> None:
    plan = energylens.serve_plan("llama-3.1-8b", "1024:128", rate_per_s=2.0, gpus="h100-sxm", tp=[1, 2])
    path = plan.write(tmp_path / "plan.parquet")
    with pytest.raises(EnergylensError, match="a deployment cannot be compared with a configuration"):
        energylens.compare(path, front)
    told = energylens.compare(path, f"{path}#{plan.frame.height - 1}")
    assert told.operations is None
    with pytest.raises(EnergylensError) as raised:
        energylens.compare("x; gpu=h100-sxm", "llama-3.1-8b; gpu=y")
    assert len(raised.value.problems) == 2


def test_the_row_of_least_energy_stands_for_a_file(tmp_path: Path) -> None:
    found = energylens.explore(
        models="llama-3.1-8b", gpus=["h100-sxm", "b200"], best_per=["gpu"], objectives=["latency_s", ENERGY]
    )
    path = found.write(tmp_path / "front.parquet")
    for file in (path, tmp_path / "front.best_per.parquet"):
        assert read_point(file).row[ENERGY] == pl.read_parquet(file)[ENERGY].min()


def test_what_else_changes_is_reported(tmp_path: Path) -> None:
    found = energylens.compare(
        "llama-3.1-8b; gpu=h100-sxm; batch=64", "llama-3.1-8b; gpu=h100-sxm; batch=64; max_batched_tokens=1024"
    )
    assert found.axes.rows() == [("max_batched_tokens", "8,192", "1,024")]
    text = energylens.inputs.bundled.bundled("hardware")["rtx-4090"].read_text(encoding="utf-8")
    (tmp_path / "gpu.yaml").write_text(text.replace("tdp_w: 450", "tdp_w: 400"), encoding="utf-8")
    assert text != (tmp_path / "gpu.yaml").read_text(encoding="utf-8")
    told = energylens.compare("llama-3.1-8b; gpu=rtx-4090", f"llama-3.1-8b; gpu={tmp_path}/gpu.yaml")
    assert told.axes["axis"].to_list() == ["gpu spec (SHA-256)"]
    plans = [
        energylens.serve_plan("llama-3.1-8b", load, rate_per_s=2.0, gpus="h100-sxm", tp=1).write(
            tmp_path / f"{n}.parquet"
        )
        for n, load in enumerate(("1024:128", "512:64"))
    ]
    assert "workload" in energylens.compare(*plans).axes["axis"].to_list()
    assert len({energylens.read_parquet(plan)[1]["plan_sha256"] for plan in plans}) == 2


@pytest.mark.parametrize(
    "change",
    [
        pl.col(ENERGY) * float("nan"),
        pl.lit("x").alias(ENERGY),
        pl.lit(None, dtype=pl.Float64).alias("latency_s"),
        pl.lit("nobody").alias("model"),
        pl.col("tp") * 0 + 3,
        -pl.col(ENERGY),
    ],
    ids=["nan", "text", "null", "model", "tp", "negative"],
)
def test_files_changed_by_hand_are_reported(front: Path, tmp_path: Path, change: pl.Expr) -> None:
    frame, told = energylens.read_parquet(front)
    path = energylens.results.parquet.write_parquet(
        frame.with_columns(change), tmp_path / "f.parquet", "", told["note"]
    )
    with pytest.raises(EnergylensError):
        energylens.compare(path, front)
    with pytest.raises(EnergylensError):
        subject = read_subject(path)
        subject.operations  # noqa: B018


@pytest.mark.parametrize("lost", ["plan", "space", "trust", "by_reason", "method", "points"])
def test_notes_that_lack_something_are_reported(front: Path, tmp_path: Path, lost: str) -> None:
    frame, told = energylens.read_parquet(front)
    note = {name: value for name, value in told["note"].items() if name != lost}
    path = energylens.results.parquet.write_parquet(frame, tmp_path / "f.parquet", "", note)
    with pytest.raises(EnergylensError, match="another version"):
        read_subject(path)
