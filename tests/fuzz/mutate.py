"""Mutations: of texts by token, of bytes, and values that programs seldom expect."""

from __future__ import annotations

import random
import re

HOSTILE = (
    *("0", "-1", "1", "-0", "1e300", "1e-300", "1e308", "5e-324", "1e9", "1e12", "1e15", "2.5", "-1e300", "0.1"),
    *(".inf", "-.inf", ".nan", "NaN", "Infinity", "-Infinity", "nan", "inf", "null", "~", "true", "off", "''"),
    *("[]", "{}", "[[]]", "[1, [2]]", "{a: 1}", "4294967295", "4294967296", "9223372036854775808"),
    *("18446744073709551616", "-9223372036854775809", "1k", "$2", "1_000", "0x10", "0o7", "1:30", "2026-01-01"),
    *("08/01/2026 10:00", "2026-01-01T00:00:00Z", "é", "\u202e", "\x1b[31m", "\u0661", "a b", "own", "default"),
    *("*a", "&a x", "!!python/object:os.system", "!!binary aGk=", "<<", "? a", "- a", "a: b", "#", "%", "`", "@x"),
    *("..", "../x.yaml", ".", "/dev/null", "/dev/zero", "folder", "fifo", "gone-link", "a" * 300, "9" * 400),
    *("0x" + "f" * 4000, "counts:counts.csv", "zipf:0.8", "zipf:1e9", "dirichlet:0", "replicated:4294967296"),
    *("1,2,4", "1:512", "1:512:0", "8:1", "1:10000000000", ",", "", " ", "--x", "-", "=", "=1", "a=", "é=1"),
)
"""Words put in place of others."""

_TOKEN = re.compile(r"[A-Za-z0-9_.+\-]+|[^\sA-Za-z0-9]")


def hostile(source: random.Random) -> str:
    """Return a word that programs seldom expect."""
    return source.choice(HOSTILE)


def text(source: random.Random, original: str) -> str:
    """Return a text with one to four mutations: of tokens, numbers, lines, characters or nesting."""
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        original = source.choice((_token, _token, _token, _number, _line, _character, _nested))(source, original)
    return original


def data(source: random.Random, original: bytes) -> bytes:
    """Return bytes with some changed, left out, repeated or cut off."""
    changed = bytearray(original)
    for _ in range(source.choice((1, 1, 2, 8))):
        at = source.randrange(len(changed) or 1)
        match source.randrange(5):
            case 0 if changed:
                changed[at] = source.randrange(256)
            case 1:
                del changed[at : at + source.choice((1, 4, 100))]
            case 2:
                changed[at:at] = changed[at : at + source.choice((1, 8, 200))]
            case 3:
                changed[at : at + 4] = source.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"))
            case _:
                if source.random() < 0.3:
                    del changed[at:]
    return bytes(changed)


def _token(source: random.Random, original: str) -> str:
    found = list(_TOKEN.finditer(original))
    if not found:
        return hostile(source)
    token = source.choice(found)
    return original[: token.start()] + hostile(source) + original[token.end() :]


def _number(source: random.Random, original: str) -> str:
    found = list(re.finditer(r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?![\w.])", original))
    if not found:
        return original
    token = source.choice(found)
    factor = source.choice((0, -1, 1e-9, 1e-3, 0.5, 1.5, 3, 1e3, 1e9, 1e30))
    value = float(token[0]) * factor
    shown = f"{value:.0f}" if abs(value) < 1e15 and value == int(value) and source.random() < 0.8 else repr(value)
    return original[: token.start()] + shown + original[token.end() :]


def _line(source: random.Random, original: str) -> str:
    lines = original.splitlines(keepends=True)
    if not lines:
        return original
    at = source.randrange(len(lines))
    match source.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(source.randrange(len(lines)), lines[at])
        case 2:
            lines[at] = "  " + lines[at]
        case 3:
            lines[at] = lines[at].lstrip()
        case _:
            lines = lines[:at]
    return "".join(lines)


def _character(source: random.Random, original: str) -> str:
    at = source.randrange(len(original) + 1)
    some = source.choice(
        ("\0", "\t", "\r", "\x1b", "{", "}", "[", "]", ":", '"', "'", "|", "\ufeff", "\ud7ff", "😀", "")
    )
    return original[:at] + some + original[at + source.choice((0, 0, 1)) :]


def _nested(source: random.Random, original: str) -> str:
    depth = source.choice((3, 50, 5000))
    opened, closed = source.choice((("[", "]"), ("{a: ", "}")))
    return _token(source, original).replace("null", opened * depth + "1" + closed * depth, 1)
