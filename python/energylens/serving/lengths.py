"""Lengths of a workload as text, `1024:256`: read, or what they were meant to be."""

from __future__ import annotations

import re
from typing import Final

from energylens.common.errors import Problem, SpecError
from energylens.common.files import is_file, printable
from energylens.inputs.axis_text import meant

_LENGTHS: Final = re.compile(r"\s*(\d+)\s*[:x]\s*(\d+)\s*")
_NUMBER: Final = r"[+-]?(?:[\d_,]*\.?\d+|\d+\.)(?:[eE][+-]?\d{1,3})?\s*[a-zA-Z]{0,2}?"
_MEANT: Final = re.compile(
    rf"\s*(?P<prompt>{_NUMBER})?\s*(?P<sign>\s*[:xX×*/;|>]\s*|\s*-+>?\s*|\s+)\s*(?P<output>{_NUMBER})?\s*"
)
"""A number at least, and a sign between two, however written."""
_ALONE: Final = re.compile(rf"\s*{_NUMBER}\s*")
_SEVERAL: Final = re.compile(rf"\s*{_NUMBER}(?:\s*[:x]\s*{_NUMBER}){{2,}}\s*")
_LONGEST: Final = 100
"""Characters of a text that may be lengths."""
_EXAMPLE: Final = "write 1024:256, prompt and output tokens"


def lengths(text: str) -> tuple[str, str] | None:
    """Return prompt and output tokens as a text has them, or None where it is something else than lengths.

    Raises `SpecError` for what can only be lengths, but is not written as such: `1k:256`, `1000/256`, `1000:`.
    """
    if match := _LENGTHS.fullmatch(text):
        return match[1], match[2]
    if len(text) > _LONGEST or is_file(text):
        return None
    if _ALONE.fullmatch(text):
        tokens = _tokens_meant(text)
        fault = f"`{printable(text)}` is one length: a workload has two, prompt and output tokens"
        raise _wrong(fault, f"write {tokens}:256" if tokens else _EXAMPLE)
    if _SEVERAL.fullmatch(text):
        raise _wrong(f"`{printable(text)}` has more than two lengths", _EXAMPLE)
    match = _MEANT.fullmatch(text)
    if match is None or not (match["prompt"] or match["output"]):
        return None
    for name, lacking in (("prompt", "prompt"), ("output", "output")):
        if match[name] is None:
            other = _tokens_meant(match["output" if name == "prompt" else "prompt"])
            example = (f"1024:{other}" if name == "prompt" else f"{other}:256") if other else "1024:256"
            fault = f"`{printable(text)}` has no {lacking} tokens"
            raise _wrong(fault, f"write {example}, prompt and output tokens")
    both_tokens = _tokens_meant(match["prompt"]), _tokens_meant(match["output"])
    hint = f"write {both_tokens[0]}:{both_tokens[1]}" if all(both_tokens) else _EXAMPLE
    if match["sign"].strip() not in (":", "x"):
        raise _wrong(
            f"`{printable(text)}` is not written as lengths: prompt and output tokens with a colon between", hint
        )
    raise _wrong(f"`{printable(text)}` is not written as lengths: they are whole numbers of 1 or more", hint)


def _tokens_meant(text: str) -> int | None:
    """Return the number of tokens that a text means, if it is whole and above 0."""
    hint = meant(text, True)
    if hint is None or not re.fullmatch(r"write \d{1,12}", hint):
        return None
    return int(hint.removeprefix("write ")) or None


def _wrong(fault: str, hint: str) -> SpecError:
    return SpecError(Problem(fault, hint=hint, code="workload"))
