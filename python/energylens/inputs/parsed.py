"""Bundled YAML as it was parsed when the package was made: JSON beside it, which is read 50 times as fast.

`packaging/parse_specs.py` writes the files. Each has the SHA-256 of the YAML that it was parsed from: a YAML file that
somebody has edited since is parsed anew, and so are all files of users.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from energylens.inputs.bundled import SPECS

FOLDER: Final = SPECS / "parsed"


def parsed_file(path: Path) -> Path:
    """Return the file that has the parsed form of a bundled spec."""
    return FOLDER / path.parent.name / f"{path.stem}.json"


def parsed_text(text: str, data: Any) -> str:
    """Return the content of that file, for a YAML text and the data in it."""
    content = {"yaml_sha256": _sha256(text), "data": data}
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def parsed_data(path: Path, text: str) -> Any | None:
    """Return the data of a bundled spec with such a text; None if it has to be parsed."""
    if path.parent.parent != SPECS:
        return None
    try:
        content = json.loads(parsed_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content["data"] if content["yaml_sha256"] == _sha256(text) else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
