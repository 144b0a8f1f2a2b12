"""`energylens sweep`, `status` and `merge`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json, Threads
from energylens.common.errors import EnergylensError, Problem

if TYPE_CHECKING:
    from energylens.results.result import Result
    from energylens.sweeps.status import Status

Folder = Annotated[str, Parameter(help="Folder or URL of a sweep.")]


@app.command
def sweep(
    job: Annotated[str, Parameter(help="A job file, a bundled job, or the manifest.json of a sweep.")],
    /,
    *,
    out: Annotated[str, Parameter(help="Folder or URL (s3://, gs://, az://) the files go to.")],
    threads: Threads = None,
    shard: Annotated[str | None, Parameter(help="K/N: each N-th shard from the K-th on, without merging.")] = None,
    executor: Annotated[str, Parameter(help="`local` (this process) or `ray`.")] = "local",
    address: Annotated[str | None, Parameter(help="Ray cluster; one is started here if not given.")] = None,
    workers: Annotated[int | None, Parameter(converter=axes.whole, help="Ray tasks at a time.")] = None,
    json: Json = False,
) -> None:
    """Evaluate a space in shards that survive interruption; the same command goes on with what is left.

    Example: energylens sweep llama-70b-decode --out out/llama-70b-decode
    """
    from energylens.sweeps.merge import merge as merged
    from energylens.sweeps.run import sweep as run

    done = run(
        job,
        out,
        threads=threads,
        shard=shard,
        executor=executor,
        workers=workers,
        address=address,
        show_progress=True,
    )
    if done.merged:
        reused = done.shards - done.computed
        summary = "complete before: nothing to do" if not done.computed else f"{done.computed:,} shards computed"
        summary += f", {reused:,} were there" if done.computed and reused else ""
        print(f"{summary}; results in {out}", file=sys.stderr)
        _tell(merged(out, threads=threads), done, json)
        return
    if json:
        emit(done.as_dict())
        return
    print(_line(done))
    if done.complete:
        print(f"all shards are there; energylens merge {out} makes the results", file=sys.stderr)
    else:
        left = done.shards - done.shards_done
        print(f"{left:,} shards are left; when they are there: energylens merge {out}", file=sys.stderr)


@app.command
def status(
    out: Folder,
    /,
    *,
    verify: Annotated[bool, Parameter(help="Read and hash every file; exit code 2 if one is damaged.")] = False,
    json: Json = False,
) -> None:
    """Say how far a sweep is; with --verify, whether every file is what was written.

    Example: energylens status out/llama-70b-decode --verify
    """
    from energylens.sweeps.status import status as status_of

    progress = status_of(out, verify=verify)
    if json:
        emit(progress.as_dict())
    else:
        print(_line(progress))
        for name in progress.damaged:
            print(f"damaged: {name}")
    if verify and progress.damaged:
        single = len(progress.damaged) == 1
        hint = f"delete {'it' if single else 'them'} and run the same sweep again: what is whole is kept"
        message = f"{len(progress.damaged):,} file{' of the sweep is' if single else 's of the sweep are'} damaged"
        raise EnergylensError(Problem(message, hint=hint, code="missing-shards"))


@app.command
def merge(out: Folder, /, *, threads: Threads = None, json: Json = False) -> None:
    """Put the shards of a sweep together: front.parquet and what else was to be kept.

    Example: energylens merge out/llama-70b-decode
    """
    from energylens.sweeps.merge import merge as merged
    from energylens.sweeps.status import status as status_of

    result = merged(out, threads=threads)
    print(f"results in {out}", file=sys.stderr)
    _tell(result, status_of(out), json)


def _line(progress: Status) -> str:
    state = "merged" if progress.merged else "not merged"
    return (
        f"{progress.name} ({progress.sweep_sha256[:12]}): {progress.shards_done:,} of {progress.shards:,} shards, "
        f"{progress.points_done:,} of {progress.points:,} points; {state}"
    )


def _tell(result: Result, progress: Status, as_json: bool) -> None:
    from energylens.reports.text import answer
    from energylens.results.words import why_not

    if as_json:
        data = {"answer": result.answer(), "front_points": result.frame.height, "by_reason": result.by_reason}
        emit(progress.as_dict() | data | {"outside_limits": result.outside_limits, "plan_sha256": result.plan_sha256})
        return
    print(f"{result.answer()}\n\n{_line(progress)}")
    counts = [f"front of {result.frame.height:,} points; {result.feasible:,} configurations run"]
    counts += [f"the others {why_not(result.by_reason)}"] if result.feasible < result.points else []
    counts += [f"{result.outside_limits:,} run outside the limits"] if result.outside_limits else []
    print("; ".join(counts))
    print(answer.trust_line(progress.trust))
