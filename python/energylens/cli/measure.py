"""`energylens measure`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import OUT, Parameter
from energylens.cli.options import Json
from energylens.common.errors import EnergylensError, Problem


@app.command
def measure(
    *,
    out: Annotated[
        Path, Parameter(name=OUT, help="Parquet file of the measurements; if it is there, go on where it ended.")
    ],
    gpu: Annotated[
        str, Parameter(help="Number of the GPU; auto: the first that is free, with those alike for collectives.")
    ] = "auto",
    suite: Annotated[str, Parameter(help="quick or full: an estimated 15 or 85 minutes.")] = "quick",
    clocks: Annotated[str, Parameter(help="Also measure at these locked SM clocks, MHz: 1980,1410.")] = "",
    minutes: Annotated[float | None, Parameter(help="Stop after so long; the same command goes on.")] = None,
    allow_shared_gpu: Annotated[bool, Parameter(help="Measure although another process is on the GPU.")] = False,
    record: Annotated[Path | None, Parameter(help="Also record the session (.jsonl or .jsonl.gz).")] = None,
    replay: Annotated[Path | None, Parameter(help="Take a recorded session in place of a GPU.")] = None,
    json: Json = False,
) -> None:
    """Measure seconds and joules of the kernels of a GPU at hand (extra `gpu`), for `energylens calibrate`.

    Matrix products, streams, attention, experts, elementwise kernels, the launch and idle floors, a small transformer;
    with several GPUs also collectives. Each runs for over two seconds, several times; joules are those of the energy
    counter, checked against power samples.

    Example: energylens measure --suite quick --out runs.parquet
    """
    from energylens.measurement.harness import measure as measured

    with _stoppable():
        measurements = measured(
            out,
            gpu=gpu,
            suite=suite,
            clocks_mhz=_clocks(clocks),
            minutes=minutes,
            allow_shared_gpu=allow_shared_gpu,
            record=record,
            replay=replay,
            show_progress=True,
            report=lambda line: print(line, file=sys.stderr),
        )
    if json:
        emit(measurements.summary() | {"file": str(out)})
        return
    print(measurements.text())
    print(f"wrote {out}", file=sys.stderr)
    if record is not None:
        print(f"recorded {record}", file=sys.stderr)


def _clocks(text: str) -> list[int]:
    clocks: list[int] = []
    for word in axes.names(text):
        try:
            clocks.append(axes.whole(word))
        except ValueError:
            message = f"a clock is a whole number of MHz, found `{word}`"
            raise EnergylensError(Problem(message, hint="such as --clocks 1980,1410", code="options")) from None
    return clocks


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have a batch system's SIGTERM end the measurement as Ctrl-C does: the clock is freed, the file stays whole."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)
