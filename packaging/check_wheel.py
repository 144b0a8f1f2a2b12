"""Checks a wheel as a new user would use it: `python packaging/check_wheel.py dist`.

In the folder lie the wheel and the sdist it was built from. The wheel is installed in an environment of its own, with
no Rust on the path; its size, its import time and the size of its dependencies are measured, and the demo is run.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NoReturn

BASE_MB, SLACK, IMPORT_S = 25.0, 1.1, 0.15
WITHIN = (
    "energylens/_core.abi3.so",
    "energylens/_core.pyi",
    "energylens/py.typed",
    "energylens/reports/html/page.html",
    "energylens/reports/html/script.js",
    "energylens/reports/html/style.css",
    "energylens/specs/models/llama-3.1-70b.yaml",
    "energylens/specs/hardware/h100-sxm.yaml",
    "energylens/specs/parsed/hardware/h100-sxm.json",
    "energylens/specs/workloads/azure-conv.yaml",
    "energylens/specs/sweeps/llama-70b-decode.yaml",
    "energylens/specs/schemas/model.schema.json",
)
SIZES = """
import importlib.metadata as m, re
def needs(name, seen):
    dist = m.distribution(name)
    name = dist.metadata["Name"].lower()
    if name not in seen:
        seen[name] = sum(f.locate().stat().st_size for f in dist.files or () if f.locate().exists())
        for line in dist.requires or ():
            if "extra ==" not in line:
                try:
                    needs(re.match(r"[\\w.-]+", line)[0], seen)
                except m.PackageNotFoundError:
                    pass
    return seen
beside = {}
for name in ("numpy", "polars", "pymoo"):
    needs(name, beside)
for name, size in sorted(needs("energylens", {}).items()):
    if name not in beside:
        print(name, size)
"""


def fail(message: str) -> NoReturn:
    """Stop with a message."""
    sys.exit(f"error: {message}")


def only(folder: Path, pattern: str) -> Path:
    """Return the only file of a pattern."""
    files = list(folder.glob(pattern))
    if len(files) != 1:
        fail(f"{folder} should hold one {pattern}, not {len(files)}")
    return files[0]


def contents(wheel: Path, sdist: Path) -> None:
    """Check what lies in the wheel and the sdist."""
    if "-cp311-abi3-" not in wheel.name:
        fail(f"{wheel.name} is not of the stable ABI of Python 3.11")
    names = zipfile.ZipFile(wheel).namelist()
    if lost := [name for name in WITHIN if name not in names]:
        fail(f"{wheel.name} lacks {', '.join(lost)}")
    if not any(".dist-info/sboms/" in name and name.endswith(".cyclonedx.json") for name in names):
        fail(f"{wheel.name} has no list of the crates in it")
    if not any(name.endswith("/LICENSE") for name in names):
        fail(f"{wheel.name} has no licence")
    if strange := [name for name in names if not name.startswith(("energylens/", "energylens-"))]:
        fail(f"{wheel.name} installs {strange[0]}")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Cargo.lock", "crates/energylens-core/src/lib.rs", f"python/{WITHIN[6]}", "LICENSE", "README.md"):
        if name not in inside:
            fail(f"{sdist.name} lacks {name}")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(names)} files; {sdist.name}: {len(inside)} files")


def tried(wheel: Path, folder: Path) -> None:
    """Install the wheel without Rust at hand, measure it, and run the demo from it."""
    rust = {str(Path(tool_path).parent) for tool in ("cargo", "rustc") if (tool_path := shutil.which(tool))}
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part not in rust)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = inherited | {"PATH": path}
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            fail(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    started = time.perf_counter()
    run(str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", str(wheel))
    print(f"installed in {time.perf_counter() - started:.0f} s")
    sizes = {
        name: int(size) / 1e6 for name, size in (line.split() for line in run(str(python), "-c", SIZES).splitlines())
    }
    listing = ", ".join(f"{name} {size:.1f}" for name, size in sorted(sizes.items(), key=lambda item: -item[1]))
    total_mb = sum(sizes.values())
    goal = f"goal {BASE_MB:.0f}, refused above {SLACK * BASE_MB:.0f}"
    print(f"base install besides numpy, polars and pymoo with what they need: {total_mb:.1f} MB ({goal}; {listing})")
    if total_mb > SLACK * BASE_MB:
        fail("the base install is too large")
    times = []
    for _ in range(9):
        started = time.perf_counter()
        run(str(python), "-c", "import energylens")
        times.append(time.perf_counter() - started)
    empty = []
    for _ in range(9):
        started = time.perf_counter()
        run(str(python), "-c", "pass")
        empty.append(time.perf_counter() - started)
    import_s = statistics.median(times) - statistics.median(empty)
    print(f"import energylens: {import_s * 1e3:.0f} ms beyond Python's own {statistics.median(empty) * 1e3:.0f} ms")
    if import_s > IMPORT_S:
        fail(f"importing takes more than {IMPORT_S} s")
    command = str(folder / "venv" / "bin" / "energylens")
    print(run(command, "--version").strip())
    answer = run(command, "demo").splitlines()[0]
    if not answer.startswith("least energy within"):
        fail(f"the demo says: {answer}")
    print(answer)
    run(command, "compare", "out/demo/front.parquet", "out/demo/front.parquet#5")
    run(command, "export", "out/demo/front.parquet", "--to", "sglang")


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "dist").resolve()
    built, source = only(where, "*.whl"), only(where, "*.tar.gz")
    contents(built, source)
    with tempfile.TemporaryDirectory() as temporary:
        tried(built, Path(temporary))
    print("the wheel works")
