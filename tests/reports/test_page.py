"""The report as a page: whole without a network, on a desk and a phone, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import energylens
from browser import OVERFLOW, address, chromium, opened
from energylens.cli import main
from energylens.common.errors import EnergylensError
from energylens.reports.html import page
from energylens.reports.subject import read_subject

pytest.importorskip("vl_convert")

DRAWN = "html[data-drawn=yes]"
MARKS = "#front .role-mark.layer_1_marks path, #front g.mark-symbol.role-mark path"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = energylens.explore(
        models="llama-3.1-70b",
        gpus=["h100-sxm", "b200"],
        weight_dtype=[None, "fp8"],
        sm_clock_mhz=[None, 1200],
        limits=["tpot<=50ms"],
    )
    return found.write(tmp_path_factory.mktemp("front") / "front.parquet")


@pytest.fixture(scope="module")
def report(front: Path) -> Path:
    out = front.with_name("report.html")
    assert main(["report", str(front), "-o", str(out)]) == 0
    return out


def test_it_is_one_file_below_two_megabytes(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert report.stat().st_size < 2_000_000
    for sign in ("<script src", "<link", '<img src="http', "@import", "url(http"):
        assert sign not in text
    assert energylens.Result.read(report.with_name("front.parquet")).answer() in text.replace("&lt;", "<")


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False), (390, True)])
def test_nothing_is_empty_clipped_or_too_wide(browser: Any, report: Path, width: int, dark: bool) -> None:
    with opened(browser, address(report), width, dark, DRAWN) as shown:
        assert shown.evaluate(OVERFLOW) <= 0
        for name in ("front", "breakdown", "operations", "roofline", "changes"):
            marks = shown.evaluate(f"document.querySelectorAll('#{name} svg .role-mark path').length")
            assert marks >= 3, name
            outside = shown.evaluate(
                """name => {
                const svg = document.querySelector(`#${name} svg`).getBoundingClientRect();
                return [...document.querySelectorAll(`#${name} svg text`)].filter((text) => {
                  const box = text.getBoundingClientRect();
                  return text.textContent && box.width > 0 && getComputedStyle(text).opacity !== "0"
                    && (box.left < svg.left - 1 || box.right > svg.right + 1
                        || box.top < svg.top - 1 || box.bottom > svg.bottom + 1);
                }).map((text) => text.textContent);
                }""",
                name,
            )
            assert not outside, f"{name}: {outside}"
        back = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(20, 24, 29)") == dark


def test_a_filter_leaves_what_it_names(browser: Any, report: Path) -> None:
    with opened(browser, address(report), ready=DRAWN) as shown:
        everything = shown.locator("#points tbody tr:visible").count()
        shown.select_option("select[data-axis=sm_clock_mhz]", "1,200")
        left = shown.locator("#points tbody tr:visible").count()
        assert 0 < left < everything
        assert all(
            "1200 MHz" in text for text in shown.locator("#points tbody tr:visible td:nth-child(2)").all_inner_texts()
        )
        shown.wait_for_function(f"document.querySelectorAll('{MARKS}').length === {left}")
        assert shown.inner_text("#count").startswith(f"{left} of {everything}")
        shown.click("#filters button[type=reset]")
        shown.wait_for_function(f"document.querySelectorAll('{MARKS}').length === {everything}")


def test_the_keyboard_picks_points_and_the_chart_follows(browser: Any, report: Path) -> None:
    with opened(browser, address(report), ready=DRAWN) as shown:
        shown.focus("#points input[type=radio]")
        shown.keyboard.press("ArrowDown")
        row = shown.get_attribute("#points tr.picked", "data-row")
        assert shown.inner_text("#picked").startswith(f"Row {row}:")
        # The mark of the picked row is larger than the others.
        shown.wait_for_function(
            f"(() => {{ const w = [...document.querySelectorAll('{MARKS}')].map(p => p.getBoundingClientRect().width);"
            " const most = Math.max(...w); return w.filter(x => x > 0.8 * most).length === 1; })()"
        )
        # And a mark leads to its row.
        shown.locator(MARKS).last.click(force=True)
        shown.wait_for_function(f"document.querySelector('#points tr.picked').dataset.row !== '{row}'")


def test_columns_are_sorted_and_the_theme_is_chosen(browser: Any, report: Path) -> None:
    with opened(browser, address(report), ready=DRAWN) as shown:
        shown.click("#points th:nth-child(4) button")
        values = [
            float(v) for v in shown.eval_on_selector_all("#points td:nth-child(4)", "c => c.map(x => x.dataset.value)")
        ]
        assert values == sorted(values)
        shown.click("#points th:nth-child(4) button")
        values = [
            float(v) for v in shown.eval_on_selector_all("#points td:nth-child(4)", "c => c.map(x => x.dataset.value)")
        ]
        assert values == sorted(values, reverse=True)
        for theme in ("light", "dark"):
            shown.click("#theme")
            assert shown.inner_text("#theme") == f"Theme: {theme}"
            assert shown.get_attribute("html", "data-theme") == theme


def test_long_fronts_are_thinned_and_say_so(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energylens.reports.html.MOST_ROWS", 100)
    found = energylens.explore(
        models="llama-3.1-8b", gpus="h100-sxm", batch="1:512", output_tokens="16:256:16", tp=[1, 2, 4]
    )
    assert found.frame.height > 100
    path = found.write(tmp_path / "front.parquet")
    assert main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").stat().st_size < 2_000_000
    with opened(browser, address(tmp_path / "r.html"), ready=DRAWN) as shown:
        assert shown.locator("#points tbody tr").count() <= 103
        assert "evenly chosen" in shown.inner_text("main")
        assert f" of {found.frame.height} configurations" in shown.inner_text("#count")


def test_service_plans_and_pairs_have_pages(browser: Any, tmp_path: Path) -> None:
    plan = energylens.serve_plan("llama-3.1-8b", "azure-conv", gpus="h100-sxm", tp=[1, 2], limits=["ttft<=1s"])
    plan.write(tmp_path / "plan.parquet")
    split = energylens.split(
        "llama-3.1-8b", prefill={"gpus": "b200", "tp": 1}, decode={"gpus": "h100-sxm", "tp": [1, 2], "batch": [8, 16]}
    )
    split.write(tmp_path / "pairs.parquet")
    for name, charts in (("plan", ("front", "breakdown", "changes")), ("pairs", ("front", "breakdown"))):
        out = tmp_path / f"{name}.html"
        assert main(["report", str(tmp_path / f"{name}.parquet"), "-o", str(out)]) == 0
        with opened(browser, address(out), 390, ready=DRAWN) as shown:
            assert shown.evaluate(OVERFLOW) <= 0
            for chart in charts:
                assert shown.locator(f"#{chart} svg .role-mark path").count() >= 2, chart


def test_names_cannot_break_out(tmp_path: Path) -> None:
    text = energylens.inputs.bundled.bundled("hardware")["rtx-4090"].read_text(encoding="utf-8")
    lines = [
        'source: "</script><script>alert(1)</script>"' if line.startswith("source:") else line
        for line in text.replace("name: rtx-4090", 'name: "</script>&<b>"').splitlines()
    ]
    (tmp_path / "gpu.yaml").write_text("\n".join(lines), encoding="utf-8")
    found = energylens.explore(models="llama-3.1-8b", gpus=tmp_path / "gpu.yaml", tp=1, batch=[1, 8])
    told = page(read_subject(found.write(tmp_path / "front.parquet")), "<i>.parquet")
    assert "<script>alert" not in told
    assert "<b>" not in told
    assert told.count("</script>") == 3


def test_what_is_no_result_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(EnergylensError, match="does not say what it answers"):
        read_subject(tmp_path / "a.parquet")
    assert main(["report", str(tmp_path / "a.parquet"), "-o", str(tmp_path / "r.pdf")]) == 2
    assert "would be a page of HTML" in capsys.readouterr().err
    assert not (tmp_path / "r.pdf").exists()


def test_pictures_are_written_alongside(front: Path, tmp_path: Path) -> None:
    assert main(["report", str(front), "-o", str(tmp_path / "r.html"), "--charts", str(tmp_path / "charts")]) == 0
    names = {path.name for path in (tmp_path / "charts").iterdir()}
    assert names == {
        f"{n}.{k}" for n in ("front", "breakdown", "operations", "roofline", "changes") for k in ("png", "svg")
    }
