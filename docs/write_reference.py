"""Write docs/reference: files from their schemas, commands from their help; `--check` says if both are current.

python docs/write_reference.py [--check]
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from refresh import markdown, update

import energylens.cli
from energylens.cli.app import app
from energylens.cli.command import App, Command, Option
from energylens.inputs.schema import KINDS, schema

FOLDER = Path(__file__).parent / "reference"
Schema = dict[str, Any]

FILES = """\
# Files

Every field of the files that energylens reads, written by `docs/write_reference.py` from their JSON Schemas. All are
YAML 1.2. Numbers are plain and in SI units (`80e9`, not `80 GB`), unless a name says otherwise (`_mhz`, `_mv`,
`_percent`). Unknown fields are mistakes. What is not *required* may be left out.

Editors complete, explain and check these files with the schemas in
[python/energylens/specs/schemas](../../python/energylens/specs/schemas); `energylens schema model` prints one,
`energylens schema --out .` writes all beside your files. Editors with the YAML language server (VS Code, Neovim, Emacs,
Helix, ...) find them by a first line such as `# yaml-language-server: $schema=model.schema.json`.

| file | what it is for |
| --- | --- |
"""

TITLES = {"model": "Model", "gpu": "GPU", "workload": "Workload", "sweep": "Sweep", "point": "Point"}

WHAT = {
    "model": "What a model computes, as einsums. The path of such a file goes wherever a bundled model's name does.",
    "gpu": "A GPU type: its data sheet and, where known, coefficients of kernels, joules and collectives.",
    "workload": "Which requests come, and how often: `--workload` of `serve-plan`, `serve-pools`, `replay`, `advise`.",
    "sweep": "A space of configurations as a job, for `energylens sweep`.",
    "point": "One configuration, and how a server of it batches, for `energylens compare` and `energylens export`.",
}

MORE = {
    "model": "[A model of your own](../how-to/own-model.md) explains one; [physics.md](../physics.md), section 2, has "
    "the functions of equations.",
    "gpu": "[A GPU of your own](../how-to/own-gpu.md) explains one; [physics.md](../physics.md) has the formula that "
    "each coefficient belongs to.",
    "workload": "[Your traffic](../how-to/own-trace.md) explains one; a trace needs no such file.",
    "sweep": "[Big sweeps](../how-to/big-sweeps.md) walks through one; [sweeps.md](../sweeps.md) says what becomes of "
    "it.",
    "point": 'The same as text: `"model.yaml; gpu=gpu.yaml; tp=2; batch=32"`.',
}

EXAMPLES = {
    "model": """\
name: tiny
ranks: {d: 1024, g: 8, r: 2, e: 64, f: 4096, v: 32000}
blocks:
  - name: embedding
    kernels:
      embedding: X[b,s,d] = embed(Tokens[b,s], We[v,d])
  - name: layer
    repeat: 12
    kernels:
      norm: N[b,s,d] = norm(X[b,s,d], Wn[d])
      qkv:
        - Q[b,s,g,r,e] = N[b,s,d] * Wq[d,g,r,e]
        - K[b,s,g,e] = N[b,s,d] * Wk[d,g,e]
        - V[b,s,g,e] = N[b,s,d] * Wv[d,g,e]
      attention:
        - S[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]
        - P[b,g,r,s,t] = softmax(S[b,g,r,s,t])
        - O[b,s,g,r,e] = P[b,g,r,s,t] * V[b,t,g,e]
      out: Y[b,s,d] = O[b,s,g,r,e] * Wo[g,r,e,d]
      up: A[b,s,f] = Y[b,s,d] * Wu[d,f]
      down: M[b,s,d] = A[b,s,f] * Wd[f,d]
      residual: X[b,s,d] = add(X[b,s,d], M[b,s,d])
  - name: head
    kernels:
      last_token: H[b,d] = last(X[b,s,d])
      head: L[b,v] = H[b,d] * Wh[d,v]
cache: [K, V]
mask: {S: causal}
shard: {b: dp, g: tp, r: tp, f: tp, v: tp, repeat: pp}
""",
    "gpu": """\
name: my-gpu
source: vendor data sheet
memory: {capacity_bytes: 48e9, bandwidth_bytes_per_s: 960e9, technology: GDDR6}
compute: {sms: 96, peak_flops: {bf16: 200e12, vector: 60e12}}
power: {tdp_w: 300}
link: {kind: pcie4, bandwidth_bytes_per_s: 32e9, gpus_per_node: 4}
""",
    "workload": """\
name: my-traffic
source: gateway logs, week 40
kinds: [[420, 180, 0.7], [5200, 350, 0.3]]
rate_per_s: 6
""",
    "sweep": """\
name: my-sweep
space:
  models: model.yaml
  gpus: [gpu.yaml, l40s]
  tp: [1, 2, 4]
  batch: "1:64"
keep: {top: 10}
""",
    "point": """\
model: model.yaml
gpu: gpu.yaml
tp: 2
batch: 32
""",
}
"""The shortest complete file of each kind, named `KIND.yaml`."""


def files() -> str:
    """Return the page of files."""
    head = FILES + "\n".join(f"| [{TITLES[kind].lower()}](#{kind}) | {WHAT[kind]} |" for kind in KINDS)
    return "\n\n".join([head, *(part for kind in KINDS for part in _kind(kind))]) + "\n"


def _kind(kind: str) -> Iterator[str]:
    document = schema(kind)
    yield f"## {TITLES[kind]}\n\n{WHAT[kind]} {MORE[kind]}"
    yield f'```yaml title="{kind}.yaml"\n{EXAMPLES[kind]}```'
    yield _fields(document, document)
    for name in _named(document):
        part = document["$defs"][name]
        yield f"### {part['title']}\n\n{part['description']}"
        yield _fields(part, document)


def _named(document: Schema) -> list[str]:
    """Return the names of nested objects, in the order in which a reader meets them."""
    listed: list[str] = []
    waiting = [document["properties"]]
    while waiting:
        for name in re.findall(r"'#/\$defs/(\w+)'", str(waiting.pop(0))):
            if name not in listed:
                listed.append(name)
                waiting.append(document["$defs"][name]["properties"])
    return listed


def _fields(part: Schema, document: Schema) -> str:
    rows = [
        [f"`{name}`", _type(field, document), _default(name, field, part), field["description"]]
        for name, field in part["properties"].items()
    ]
    return markdown(["field", "type", "default", "meaning"], rows)


def _default(name: str, field: Schema, part: Schema) -> str:
    if name in part.get("required", ()):
        return "*required*"
    return f"`{_yaml(field['default'])}`" if field.get("default") not in (None, [], {}) else ""


def _yaml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _exponent(f"{value:g}") if isinstance(value, float) else str(value)


def _exponent(text: str) -> str:
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), text)


def _type(field: Schema, document: Schema, many: str = "") -> str:
    """Return a type in words; with `many` "s", of several."""
    if "$ref" in field:
        title = document["$defs"][field["$ref"].rpartition("/")[2]]["title"].lower()
        return f"[{title}](#{title.replace(' ', '-')})"
    if "anyOf" in field:
        return _either([choice for choice in field["anyOf"] if choice.get("type") != "null"], document, many)
    if "enum" in field or "const" in field:
        values = [choice for choice in field.get("enum", [field.get("const")]) if choice is not None]
        return ("one of " if len(values) > 1 else "") + ", ".join(f"`{_yaml(choice)}`" for choice in values)
    match field["type"]:
        case "array" if "prefixItems" in field:
            parts = [_type(choice, document) for choice in field["prefixItems"]]
            parts[field["minItems"] :] = [f"{choice} (may be left out)" for choice in parts[field["minItems"] :]]
            same = len(set(parts)) == 1
            words = _type(field["prefixItems"][0], document, "s") if same else f"values: {'; '.join(parts)}"
            return f"row{many} of {len(parts)} {words}"
        case "array" if field.get("minItems") == field.get("maxItems") is not None:
            return f"row{many} of {field['minItems']} {_type(field['items'], document, 's')}"
        case "array":
            return f"list{many} of {_type(field['items'], document, 's')}"
        case "object" if isinstance(field.get("additionalProperties"), dict):
            names = "whole numbers" if "0-9" in field.get("propertyNames", {}).get("pattern", "") else "names"
            return f"mapping of {names} to {_type(field['additionalProperties'], document, 's')}"
        case "string":
            examples = [f"`{_yaml(choice)}`" for choice in field.get("examples", [])[:3]]
            return f"text{many}" + (f" such as {', '.join(examples)}" if examples else "")
        case "integer" | "number" as kind:
            return _number(("whole number" if kind == "integer" else "number") + many, field)
        case kind:
            return {"boolean": "`true` or `false`", "object": "fields"}[kind]


def _either(choices: list[Schema], document: Schema, many: str) -> str:
    *others, last = choices
    words = [_type(choice, document, many) for choice in others]
    item = last.get("items", {})
    item_choices = [choice for choice in item.get("anyOf", [item]) if choice.get("type") != "null"]
    words.append("a list of them" if others and item_choices == others else _type(last, document, many))
    if len(words) < 3 and not any(", " in choice for choice in words):
        return " or ".join(words)
    return "; ".join([*words[:-1], f"or {words[-1]}"]) if len(words) > 1 else words[0]


def _number(what: str, field: Schema) -> str:
    least, above, most = field.get("minimum"), field.get("exclusiveMinimum"), field.get("maximum")
    most = None if most == 10**12 else most

    def shown(value: float) -> str:
        return f"{value:,}" if isinstance(value, int) else _exponent(f"{value:g}")

    if above is not None:
        return f"{what} above {shown(above)}" + (f", at most {shown(most)}" if most is not None else "")
    if least is not None and most is not None:
        return f"{what} from {shown(least)} to {shown(most)}"
    return what + (f", {shown(least)} or more" if least is not None else "")


COMMANDS = """\
# Commands

Every command with its options, written by `docs/write_reference.py` from their help; `energylens COMMAND --help` prints
the same. An axis takes a number, a list `1,2,4`, or a range `1:8` or `16:512:16`; `default` is the spec's. A mistake
ends with exit code 2 ([errors](../errors.md), [exit codes](exit-codes.md)).

| command | what it does |
| --- | --- |
"""


def commands() -> str:
    """Return the page of commands."""
    for module in pkgutil.iter_modules(energylens.cli.__path__):
        importlib.import_module(f"energylens.cli.{module.name}")
    listed = sorted(_commands(app), key=lambda command: command.path)
    rows = [f"| [{_name(command)}](#{command.path.replace(' ', '-')}) | {_help(command)[0]} |" for command in listed]
    return COMMANDS + "\n".join(rows) + "\n" + "".join(map(_command, listed))


def _commands(parent: App) -> Iterator[Command]:
    for command in parent.commands.values():
        yield from _commands(command) if isinstance(command, App) else [command]


def _name(command: Command) -> str:
    return command.path.removeprefix(f"{app.name} ")


def _help(command: Command) -> tuple[str, str, str]:
    """Return a command's sentence, what else is said of it, and its example."""
    text, _, example = command.help.partition("Example:")
    sentence, _, more = text.strip().partition("\n\n")
    return " ".join(sentence.split()), more.strip(), " ".join(example.split())


def _command(command: Command) -> str:
    sentence, more, example = _help(command)
    parts = [f"## {command.path}", sentence, *([more] if more else [])]
    parts += [f"```text\n{example}\n```"] if example else []
    rows = [
        [
            ", ".join(f"`{word}`" for word in option.flags or [option.shown]),
            _VALUES[option.kind],
            _spelling(option),
            option.help.replace("|", r"\|"),
        ]
        for option in command.options
    ]
    parts += [markdown(["option", "value", "default", "meaning"], rows)] if rows else []
    return "\n" + "\n\n".join(parts) + "\n"


_VALUES = {str: "text", int: "whole number", float: "number", bool: "switch", Path: "path", list: "text, repeatable"}


def _spelling(option: Option) -> str:
    if option.default is MISSING:
        return "*required*"
    if isinstance(option.default, bool) and not option.switch:
        return "`on`" if option.default else "`off`"
    return "" if option.switch or option.default is None or option.default in ("", []) else f"`{option.default}`"


def main() -> int:
    """Write or check; return the exit code."""
    return update({FOLDER / "files.md": files(), FOLDER / "commands.md": commands()}, "write_reference.py")


if __name__ == "__main__":
    sys.exit(main())
