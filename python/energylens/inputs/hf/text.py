"""YAML text of a spec in the look of a hand-written file."""

from __future__ import annotations

from typing import Any

HEADER = ("name", "source", "parameters", "ranks")
FOOTER = ("cache", "mask", "dtypes", "shard", "tied")


def write_yaml(spec: dict[str, Any]) -> str:
    """Render a spec: short mappings on one line, one equation a line, a blank line around every block."""
    lines = [f"{key}: {_inline(spec[key])}" for key in HEADER if key in spec]
    lines += ["", "blocks:"]
    for block in spec["blocks"]:
        lines += [*_block(block), ""]
    lines += [f"{key}: {_inline(spec[key])}" for key in FOOTER if key in spec]
    return "\n".join(lines) + "\n"


def _block(block: dict[str, Any]) -> list[str]:
    lines = [f"    {key}: {_inline(value)}" for key, value in block.items() if key != "kernels"]
    lines[0] = "  - " + lines[0].lstrip()
    lines.append("    kernels:")
    for name, kernel in block["kernels"].items():
        lines += _kernel(name, kernel)
    return lines


def _kernel(name: str, kernel: Any) -> list[str]:
    if isinstance(kernel, str):
        return [f"      {name}: {kernel}"]
    if isinstance(kernel, list):
        return [f"      {name}:", *(f"        - {equation}" for equation in kernel)]
    rest = [f"        {key}: {_inline(value)}" for key, value in kernel.items() if key != "equations"]
    equations = [f"          - {equation}" for equation in kernel["equations"]]
    return [f"      {name}:", *rest, "        equations:", *equations]


def _inline(value: Any) -> str:
    """A value in flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _scalar(value)
    return str(value)


def _float(value: float) -> str:
    """A float in powers of 1e9 where that reads back as the same number."""
    digits = f"{value / 1e9:.12g}"
    text = f"{digits if '.' in digits else digits + '.0'}e9"
    return text if float(text) == value else repr(value)


def _scalar(text: str) -> str:
    """A plain scalar where YAML reads it back as the same text, else a quoted one."""
    first_plain = text[:1].isalpha()
    breaks = any(mark in text for mark in (": ", " #", "[", "]", "{", "}", "\n", '"', "\\"))
    reserved = text.lower() in {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
    if first_plain and not breaks and not reserved and not text.endswith((":", " ")):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
