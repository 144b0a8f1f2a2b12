"""Rooms of the Rust core in an order that its paths run down, and no ring of files."""

import re
from pathlib import Path

from rings import rings

CORE = Path(__file__).parent.parent / "crates/energylens-core/src"

ROOMS = (
    "error",
    "numeric",
    "system",
    "phase",
    "hardware",
    "routing",
    "einsum",
    "input",
    "graph",
    "cost",
    "lowering",
    "batch",
    "serving",
    "engine",
    "reduce",
    "search",
    "explain",
)
"""A room uses itself and those before it."""

PATH = re.compile(r"\b(crate|super)((?:::\w+)*)(?:::\{([^}]*)\})?")


def modules(core: Path = CORE) -> dict[str, Path]:
    """Return the files of the core by their module path, without the root."""
    files = {}
    for path in core.rglob("*.rs"):
        parts = path.relative_to(core).with_suffix("").parts
        parts = parts[:-1] if parts[-1] in ("mod", "lib") else parts
        if parts:
            files["::".join(parts)] = path
    return files


def code(path: Path) -> str:
    """Return the text of a file without comments and tests."""
    text = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests")[0]
    return re.sub(r"//.*", "", text)


def uses(core: Path = CORE) -> dict[str, set[str]]:
    """Return which modules each module refers to; a module and its parent count as one."""
    files = modules(core)
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        edges[name] = set()
        parent = name.rpartition("::")[0]
        for start, members, group in PATH.findall(code(path)):
            if not members + group:  # the visibility of an item
                continue
            base = members.removeprefix("::") if start == "crate" else f"{parent}{members}".removeprefix("::")
            for member in re.findall(r"[\w:]+", group) or [""]:
                target = f"{base}::{member}".strip(":")
                while target and target not in files:
                    target = target.rpartition("::")[0]
                if target and target != name and not name.startswith(f"{target}::"):
                    edges[name].add(target)
    return edges


def room(module: str) -> str:
    return module.split("::")[0]


def test_every_file_stands_in_a_room() -> None:
    assert {room(module) for module in modules()} == set(ROOMS)


def test_paths_run_down_the_order_of_rooms() -> None:
    edges = uses()
    place = {name: position for position, name in enumerate(ROOMS)}
    upward = {
        (module, target)
        for module, targets in edges.items()
        for target in targets
        if place[room(target)] > place[room(module)]
    }
    assert upward == set()
    # The list is of use only if paths are found at all.
    assert {"cost::kernel", "hardware::profile", "graph"} <= set[str]().union(*edges.values())


def test_no_files_refer_to_each_other_in_a_ring() -> None:
    assert rings(uses()) == []


def test_a_ring_is_detected(tmp_path: Path) -> None:
    (tmp_path / "cost").mkdir()
    (tmp_path / "lib.rs").write_text("pub mod cost;\npub mod engine;\n")
    (tmp_path / "cost/mod.rs").write_text("mod gemm;\nmod kernel;\nmod tile;\n")
    (tmp_path / "cost/gemm.rs").write_text("use super::{kernel::Kernel, tile};\n")
    (tmp_path / "cost/kernel.rs").write_text("// crate::cost::gemm\nuse crate::engine::{Plan, space};\n")
    (tmp_path / "cost/tile.rs").write_text("#[cfg(test)]\nmod tests { use crate::cost::gemm; }\n")
    (tmp_path / "engine.rs").write_text("fn f() { crate::cost::gemm::g() }\n")
    edges = uses(tmp_path)
    assert edges["cost::gemm"] == {"cost::kernel", "cost::tile"}
    assert edges["cost::tile"] == set()
    assert rings(edges) == [["cost::gemm", "cost::kernel", "engine"]]
