"""How many published Hugging Face configs become specs, and why the others do not.

Tries every `*_config.json` of a directory: the one given, else `model_configs` of the installed aiconfigurator_core.
A neighbouring `*_hf_quant_config.json` gives the number formats where the config itself does not.

    python benchmarks/import_coverage.py [DIRECTORY]
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from energylens.inputs.hf import InvalidConfig, UnsupportedArchitecture, spec_from_hf

QUANTISATION = "_hf_quant_config.json"


def default_directory() -> Path:
    """Return the folder of configs that aiconfigurator_core brings."""
    package = find_spec("aiconfigurator_core")
    places = list(package.submodule_search_locations or []) if package else []
    if not places:
        sys.exit("aiconfigurator_core is not installed: name a directory of *_config.json files")
    return Path(places[0]) / "model_configs"


def load(path: Path) -> dict[str, Any]:
    """Return a config, with the number formats of its neighbour if it names none."""
    config: dict[str, Any] = json.loads(path.read_text())
    neighbour = path.with_name(path.name.removesuffix("_config.json") + QUANTISATION)
    text = config.get("text_config") or {}
    if neighbour.exists() and not (config.get("quantization_config") or text.get("quantization_config")):
        config["quantization_config"] = json.loads(neighbour.read_text()).get("quantization")
    return config


def attempt(path: Path) -> str | None:
    """Return why a config was refused, None if it was not."""
    try:
        spec_from_hf(load(path))
    except (UnsupportedArchitecture, InvalidConfig) as error:
        return str(error).split("; write the model", 1)[0]
    return None


def main(arguments: list[str]) -> None:
    """Print the share of configs that import and a table of the refused ones by reason."""
    directory = Path(arguments[0]) if arguments else default_directory()
    paths = sorted(path for path in directory.glob("*_config.json") if not path.name.endswith(QUANTISATION))
    refused: dict[str, list[str]] = defaultdict(list)
    imported = []
    for path in paths:
        name = path.name.removesuffix("_config.json").replace("--", "/")
        reason = attempt(path)
        if reason is None:
            imported.append(name)
        else:
            refused[reason].append(name)
    print(f"imported: {len(imported)} of {len(paths)}")
    for name in imported:
        print(f"  {name}")
    for reason, names in sorted(refused.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"\nrefused: {len(names)}: {reason}")
        for name in names:
            print(f"  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
