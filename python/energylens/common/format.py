"""Plain aligned tables and numbers with a sensible number of digits."""

from __future__ import annotations

from collections.abc import Sequence

from energylens.common.files import printable

_PREFIXES = (
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "u"),
    (1e-9, "n"),
    (1e-12, "p"),
)


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """Return a value with an SI prefix: `si(0.0224, "s")` is `22.4 ms`; `-` for none."""
    if value is None:
        return "-"
    if value == 0:
        return f"0 {unit}"
    scale, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s * (1 - 0.5 * 10**-digits)), _PREFIXES[-1])
    return f"{number(value / scale, digits)} {prefix}{unit}"


def billions(count: float) -> str:
    """Return a parameter count as people say it: `70.6B`."""
    return f"{number(count / 1e9, 4)}B" if count >= 1e9 else f"{number(count / 1e6, 4)}M"


def number(value: float | None, digits: int = 3) -> str:
    """Return a value with a number of significant digits, never in exponent form between 1e-4 and 1e9; `-` for none."""
    if value is None:
        return "-"
    if value == 0 or not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    whole = len(str(int(abs(value))))
    return f"{value:,.{max(0, digits - whole if abs(value) >= 1 else digits + _leading_zeros(value))}f}"


def _leading_zeros(value: float) -> int:
    text = f"{abs(value):.12f}".split(".")[1]
    return len(text) - len(text.lstrip("0"))


def _cell(value: object) -> str:
    """Return a value as it stands in a table: on one line, whatever a name from a file holds; switches as they are set.

    True and False are `on` and `off`, as the command line takes them.
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    text = "-" if value is None else str(value)
    return text if text.isprintable() else printable(text, most=len(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table; columns of numbers are set to the right."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(header)]
    right = [bool(cells) and all(row[i][:1] in "0123456789-.<" for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(header)), line(["-" * width for width in widths]), *map(line, cells)])
