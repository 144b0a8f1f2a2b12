"""A model or a GPU as text: what was derived from the equations, every coefficient with its source."""

from __future__ import annotations

import json
from typing import Any

from energylens.common.format import billions, table
from energylens.inputs.plan import LoadedGpu, LoadedModel, Plan


def explain_model(loaded: LoadedModel) -> list[dict[str, Any]]:
    """Return what the core derived, kernel by kernel, as plain data."""
    kernels: list[dict[str, Any]] = json.loads(Plan([loaded], []).core.explain_model(0))
    return kernels


def model_text(loaded: LoadedModel, explain: bool) -> str:
    """Return a model as a table of kernels, or line by line with formulas."""
    spec = loaded.spec
    parameters = Plan([loaded], []).core.parameters(0)
    published = f", published {billions(spec.parameters)}" if spec.parameters else ""
    head = [f"{spec.name}: {billions(parameters)} parameters{published}", f"source: {spec.source or 'not given'}"]
    head.append(
        "ranks: "
        + ", ".join(f"{n} {r.extent}" + (f" ({r.active} active)" if r.active else "") for n, r in spec.ranks.items())
    )
    head.append("shard: " + (", ".join(f"{rank} over {axis}" for rank, axis in spec.shard.items()) or "nothing"))
    kernels = explain_model(loaded)
    body = _explained(kernels) if explain else _listed(kernels)
    return "\n".join([*head, "", body])


def _listed(kernels: list[dict[str, Any]]) -> str:
    rows = [
        [
            k["block"],
            k["repeat"],
            k["kernel"],
            k["class"],
            k["phase"] or "both",
            len(k["lines"]),
            "; ".join(c.split(":")[0] for c in k["collectives"]) or "-",
        ]
        for k in kernels
    ]
    return table(["block", "repeat", "kernel", "class", "phase", "equations", "collectives (from the shard map)"], rows)


def _explained(kernels: list[dict[str, Any]]) -> str:
    lines: list[str] = []
    block = None
    for kernel in kernels:
        if kernel["block"] != block:
            block = kernel["block"]
            lines += [f"block {block}, {kernel['repeat']} times", ""]
        phase = f", {kernel['phase']} only" if kernel["phase"] else ""
        lines.append(f"  {kernel['kernel']} [{kernel['class']}{phase}]")
        for line in kernel["lines"]:
            lines.append(f"    {line['equation']}")
            roles = f"{line['work']} {line['roles']}".strip()
            flops = f"FLOPs {line['flops']} = {line['flops_value']} without splits" if line["flops"] else "no FLOPs"
            lines.append(f"      {roles}; {flops}")
        for name in ("reads", "writes", "inside", "collectives"):
            if kernel[name]:
                label = {"inside": "on chip", "collectives": "then"}.get(name, name)
                lines.append(f"      {label}: {'; '.join(kernel[name])}")
        lines.append("")
    return "\n".join(lines).rstrip()


_SECTIONS = (
    *("memory", "compute", "clock", "power", "link", "host", "kernels", "energy", "collectives"),
    *("uncertainty", "range"),
)


def gpu_text(loaded: LoadedGpu) -> str:
    """Return every number of a profile with its source."""
    data, modelled = loaded.profile.sections, loaded.profile.modelled
    lines = [f"{loaded.spec.name}: trust {loaded.trust}", f"source: {loaded.spec.source}"]
    if modelled:
        lines.append("sections not given follow from the data sheet by rules, marked `modelled` below")
    for section in _SECTIONS:
        if section in data:
            lines += ["", section, *_section(data[section], "  ", loaded.spec.source)]
    if frameworks := loaded.spec.frameworks:
        names = ", ".join(f"{loaded.spec.name}@{name}" for name in frameworks)
        lines += ["", f"other serving frameworks, with kernels of their own: {names}"]
    return "\n".join(lines)


def _section(node: Any, indent: str, source: str) -> list[str]:
    lines: list[str] = []
    if isinstance(node, list):
        for item in node:
            lines += _section(item, indent, source) if isinstance(item, dict) else [f"{indent}{item}"]
        return lines
    cited = node.get("source", source)
    plain = {k: v for k, v in node.items() if k not in {"source", "name"} and not isinstance(v, (dict, list))}
    if "name" in node:
        lines.append(f"{indent}{node['name']}")
        indent += "  "
    lines += [
        f"{indent}{key} = {f'{value:g}' if isinstance(value, (int, float)) else value}" for key, value in plain.items()
    ]
    for key, value in node.items():
        if key == "fit":
            lines += _fits(value, indent)
        elif isinstance(value, dict):
            inner = _section(value, indent + "  ", cited)
            lines += [f"{indent}{key}", *[line for line in inner if line.strip() != f"[{cited}]"]]
        elif isinstance(value, list):
            inline = all(not isinstance(item, dict) for item in value)
            lines += (
                [f"{indent}{key} = {value}"] if inline else [f"{indent}{key}", *_section(value, indent + "  ", cited)]
            )
    if "source" in node:
        lines.append(f"{indent}[{cited}]")
    return lines


def _fits(node: dict[str, Any], indent: str) -> list[str]:
    """Return errors of a fit, or of several by name, one line each."""
    if "mape_percent" not in node:
        return [line for name, fit in node.items() for line in _fits(fit | {"data": f"{name}, {fit['data']}"}, indent)]
    parts = [f"{node['mape_percent']:g} % mean"]
    parts += [f"{node[key]:g} % {name}" for key, name in _ERRORS.items() if key in node]
    text = f"{indent}fit ({node['data']}): {', '.join(parts)} over {node['rows']:,} rows"
    if "notes" in node:
        text += f"; {node['notes']}"
    ranges = [f"{name} {low:g} to {high:g}" for name, (low, high) in node.get("valid", {}).items()]
    return [text, f"{indent}valid: {', '.join(ranges)}"] if ranges else [text]


_ERRORS = {"median_percent": "median", "p90_percent": "90th percentile", "bias_percent": "bias"}
