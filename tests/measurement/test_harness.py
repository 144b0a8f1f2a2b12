"""A suite is measured, goes on where it was cut off, leaves out what cannot run, and refuses a GPU that is not free."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from energylens.common.errors import EnergylensError, GpuError
from energylens.inputs.plan import LoadedGpu
from energylens.measurement import harness
from energylens.measurement.backend import Backend, Window
from energylens.measurement.cases import REPEATS, suite
from energylens.measurement.harness import Session, measure
from energylens.measurement.recording import FORMAT, Replay
from energylens.measurement.runs import Runs
from measurement.conftest import CLOCKS_MHZ
from measurement.simulated import STATIC_W, SimulatedGpu, truth


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> LoadedGpu:
    return truth(tmp_path_factory.mktemp("truth"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take six cases of the suite."""
    monkeypatch.setattr(harness, "suite", lambda *_, **__: suite("quick")[:6])


def on(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "Live", lambda _gpu: backend)


def test_a_replayed_session_gives_the_same_rows(recording: Path, tmp_path: Path) -> None:
    result = measure(tmp_path / "runs.parquet", clocks_mhz=CLOCKS_MHZ, replay=recording)
    recorded = Runs.read(recording.parent / "recorded.parquet")
    assert result.rows.drop("measured_at").equals(recorded.rows.drop("measured_at"))
    assert Runs.read(tmp_path / "runs.parquet").rows.equals(result.rows)
    summary = result.summary()
    assert summary["repeat_spread_percent"]["joules"]["median"] < 2
    assert abs(summary["integrated_over_counter_percent"]["mean"]) < 1
    assert "suspect" not in result.text()
    with pytest.raises(EnergylensError, match="a replay starts anew"):
        measure(tmp_path / "runs.parquet", replay=recording)


def test_it_goes_on_where_it_was_cut_off(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(SimulatedGpu):
        def window(self, calls: int) -> Window:
            if self.windows == 5:
                raise KeyboardInterrupt
            return super().window(calls)

    path, lines = tmp_path / "runs.parquet", list[str]()
    first = Cut(profile)
    on(first, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        measure(path)
    assert first.closed
    assert Runs.read(path).rows.height == 5
    second = SimulatedGpu(profile)
    on(second, monkeypatch)
    result = measure(path, report=lines.append)
    assert result.rows.height == 6 * REPEATS["quick"]
    assert second.windows == 6 * REPEATS["quick"] - 5
    assert lines == ["5 measured already, 7 to measure, about 0 minutes"]
    assert result.rows.select("case", "repeat").n_unique() == result.rows.height
    assert measure(path).rows.height == result.rows.height
    assert second.windows == 6 * REPEATS["quick"] - 5


def test_suspect_rows_are_measured_again(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lines = tmp_path / "runs.parquet", list[str]()
    on(SimulatedGpu(profile), monkeypatch)
    result = measure(path)
    hot = result.rows.with_columns(pl.when(pl.col("repeat") == 1).then(pl.lit("heat")).alias("suspect"))
    Runs(hot, result.gpu, "quick", "", {}).write(path)
    again = measure(path, report=lines.append)
    assert lines[0] == "6 suspect rows are measured again"
    assert again.rows.height == 12 and again.rows["suspect"].null_count() == 12


def test_it_stops_when_the_time_is_over(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    on(SimulatedGpu(profile), monkeypatch)
    result = measure(tmp_path / "runs.parquet", minutes=1e-9, report=lines.append)
    assert result.rows.height == 0
    assert lines == ["12 to measure, about 1 minutes", "the time is over; the same command goes on from here"]


def test_what_cannot_run_is_left_out_once(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    on(SimulatedGpu(profile, broken=("launch",)), monkeypatch)
    result = measure(tmp_path / "runs.parquet", report=lines.append)
    assert result.skipped == {"launch": "no kernel image is available"}
    assert lines[1:] == ["left out: launch: no kernel image is available"]
    assert "launch" not in result.rows["family"]
    assert "could not run: 1, such as launch" in result.text()
    on(SimulatedGpu(profile), monkeypatch)
    assert measure(tmp_path / "runs.parquet").skipped == {}


def test_a_clock_that_may_not_be_locked_is_left_out(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    backend = SimulatedGpu(profile, may_lock=False)
    on(backend, monkeypatch)
    result = measure(tmp_path / "runs.parquet", clocks_mhz=[1410], report=lines.append)
    assert result.rows["sm_clock_lock_mhz"].null_count() == result.rows.height
    assert lines[1:] == ["the clock cannot be locked at 1410 MHz, which is left out: Insufficient Permissions"]


def test_a_locked_clock_is_freed_even_when_it_is_cut_off(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(SimulatedGpu):
        def window(self, calls: int) -> Window:
            if self.clock is not None:
                raise KeyboardInterrupt
            return super().window(calls)

    backend = Cut(profile)
    on(backend, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "runs.parquet", clocks_mhz=[1650])
    assert backend.clock is None


def test_a_gpu_that_is_not_free_is_refused_unless_allowed(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(SimulatedGpu(profile, busy=("process 7 on GPU 0, 3.1 GB",)), monkeypatch)
    with pytest.raises(GpuError, match="not free: process 7 on GPU 0"):
        measure(tmp_path / "runs.parquet")
    assert not (tmp_path / "runs.parquet").exists()
    lines: list[str] = []
    assert measure(tmp_path / "runs.parquet", allow_shared_gpu=True, report=lines.append).rows.height
    assert lines[0] == "measuring beside process 7 on GPU 0, 3.1 GB: their joules are in these"


def test_a_file_of_another_gpu_is_refused_and_retained(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.parquet"
    on(SimulatedGpu(profile), monkeypatch)
    measure(path)
    before = path.read_bytes()
    on(SimulatedGpu(profile, uuid="GPU-other"), monkeypatch)
    with pytest.raises(EnergylensError, match="holds suite quick of Simulated H200"):
        measure(path)
    with pytest.raises(EnergylensError, match="unknown suite `quik`"):
        measure(path, suite="quik", minutes=-1)
    assert path.read_bytes() == before


def test_every_kernel_is_looped_for_two_seconds_after_it_is_warm(profile: LoadedGpu, tmp_path: Path, few: None) -> None:
    class Watched(SimulatedGpu):
        def time(self, calls: int) -> float:
            warm.append(super().time(calls))
            return warm[-1]

        def window(self, calls: int) -> Window:
            if self.case.family != "idle":
                assert max(warm) >= harness.WARM_S
            warm.clear()
            result = super().window(calls)
            assert result.seconds >= 0.98 * harness.WINDOW_S
            return result

    warm: list[float] = []
    result = Session(Watched(profile), tmp_path / "runs.parquet", "quick").run(None)
    assert result.rows.filter(pl.col("family") == "idle", pl.col("variant") == "waiting")["power_w"].to_list() == (
        pytest.approx([STATIC_W] * 2, rel=0.02)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no recorded session"),
        ("{}\n", "no recorded session"),
        ("not json\n", "lines of JSON"),
        (f'{{"format":"{FORMAT}","about":{{"name":"x"}}}}\n', "of another version"),
    ],
)
def test_a_faulty_recording_is_reported(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "session.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EnergylensError, match=message):
        Replay(path)


def test_a_recording_has_only_what_was_recorded(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(EnergylensError, match="no answer to `lock of the clock at 1200 MHz`"):
        measure(tmp_path / "runs.parquet", clocks_mhz=[1200], replay=recording)


def test_a_cut_recording_is_reported(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(recording.read_bytes()[:-200])
    with pytest.raises(EnergylensError, match=r"cut\.jsonl"):
        Replay(path)


def test_only_files_of_measurements_are_read(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    whole = Runs.read(recording.parent / "recorded.parquet")
    for name, value in (("seconds", float("nan")), ("power_w", None), ("limit_w", 0.0)):
        Runs(whole.rows.with_columns(pl.lit(value, pl.Float64).alias(name)), whole.gpu, "quick", "", {}).write(path)
        with pytest.raises(
            EnergylensError, match=f"column `{name}` is not a positive number in {whole.rows.height} of"
        ):
            Runs.read(path)
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(EnergylensError, match="not a file of measured kernels"):
        Runs.read(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(EnergylensError, match="cannot read"):
        Runs.read(path)


def test_a_recording_is_of_one_run_and_never_written_over(
    profile: LoadedGpu, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tmp_path / "session.jsonl"
    on(SimulatedGpu(profile), monkeypatch)
    measure(tmp_path / "runs.parquet", record=session, clocks_mhz=[1650, 1650])
    before = session.read_bytes()
    with pytest.raises(EnergylensError, match="is there already"):
        measure(tmp_path / "runs.parquet", record=session)
    assert session.read_bytes() == before
    again = measure(tmp_path / "again.parquet", replay=session, clocks_mhz=[1650])
    assert again.rows.drop("measured_at").equals(Runs.read(tmp_path / "runs.parquet").rows.drop("measured_at"))


def test_a_damaged_recording_is_reported_and_nothing_is_written(recording: Path, tmp_path: Path) -> None:
    lines = gzip.decompress(recording.read_bytes()).decode().splitlines()
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("\n".join(line.replace('"power_mw"', '"power"') for line in lines), encoding="utf-8")
    for path, clocks, message in ((damaged, (), "lacks something"), (recording, (1200,), "no answer to")):
        with pytest.raises(EnergylensError, match=message):
            measure(tmp_path / "runs.parquet", replay=path, clocks_mhz=clocks)
        assert not (tmp_path / "runs.parquet").exists()


def test_all_that_is_wrong_with_a_question_is_reported_at_once(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(EnergylensError) as caught:
        measure(tmp_path / "a.txt", suite="quik", minutes=-1, clocks_mhz=[0], record="r.txt", replay=recording, gpu="3")
    assert len(caught.value.problems) == 6


def test_reasons_of_all_repeats_and_the_least_limit_count(recording: Path) -> None:
    whole = Runs.read(recording.parent / "recorded.parquet")
    second = pl.col("repeat") == 1
    changed = whole.rows.with_columns(
        pl.when(second).then(pl.lit("power")).otherwise("throttle").alias("throttle"),
        pl.when(second).then(650.0).otherwise("limit_w").alias("limit_w"),
    )
    means = Runs(changed, whole.gpu, "quick", "", {}).means
    assert set(means["throttle"]) == {"power"}
    assert set(means["limit_w"]) == {650.0}
    assert set(whole.means["throttle"]) == {""}
