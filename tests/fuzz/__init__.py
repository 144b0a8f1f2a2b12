"""A fuzzer of everything that comes from outside: files of every kind, frames, plans, native calls, command lines.

`python -m fuzz --seconds 600` (from `tests/`; `make fuzz`) makes inputs by mutation, runs each in a worker process with
a limit of memory and of time, and reports what must never happen: an exception other than `EnergylensError`, exit code
70, an abort, a hang, memory without bound, or a feasible result that is not finite. An input is plain JSON, a `Case`;
those that failed are written to `out/fuzz`, and `python -m fuzz --case FILE` runs one again. `corpus/` holds cases that
failed once; they are run first.
"""
