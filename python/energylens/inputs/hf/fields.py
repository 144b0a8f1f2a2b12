"""Typed reading of a config's fields that collects every problem before it complains."""

from __future__ import annotations

from typing import Any, Final

from energylens.common.show import quoted
from energylens.inputs.hf.errors import InvalidConfig

MOST: Final = 2**32 - 1
"""Largest size that a field may give, that of a rank of a spec."""


class Fields:
    """A config dict whose readers note problems instead of raising; a field given as null counts as absent."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Wrap one (text) config."""
        self.config = config
        self.problems: list[str] = []

    def assume(self, **defaults: int) -> None:
        """Fill absent fields with the defaults of a family."""
        self.config = self.config | {name: value for name, value in defaults.items() if name not in self}

    def __contains__(self, name: str) -> bool:
        """Tell whether a field is given."""
        return self.config.get(name) is not None

    def problem(self, text: str) -> None:
        """Note one problem, once."""
        if text not in self.problems:
            self.problems.append(text)

    def check(self) -> None:
        """Raise `InvalidConfig` with all the problems noted so far."""
        if self.problems:
            raise InvalidConfig(self.problems)

    def raw(self, *names: str) -> Any:
        """Return the first of the names that is present, or None."""
        return next((self.config[name] for name in names if name in self), None)

    def integer(self, *names: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """Read a whole number under the first name present; a problem, such as absence without default, reads 1."""
        name = next((name for name in names if name in self), None)
        if name is None:
            if default is None:
                self.problem(f"{' or '.join(names)} is missing")
                return 1
            return default
        value = self.config[name]
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(f"{name} must be a whole number, not {quoted(value)}")
            return 1
        if value < least:
            self.problem(f"{name} must be at least {least}, not {quoted(value)}")
            return 1
        if value > most:
            self.problem(f"{name} must be at most {most:,}, not {quoted(value)}")
            return 1
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Read a boolean."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(f"{name} must be true or false, not {quoted(value)}")
            return default
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Read a mapping; None if absent or wrong."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, dict):
            self.problem(f"{name} must be a mapping, not {quoted(value)}")
            return None
        return value

    def items(self, name: str, length: int | None = None) -> list[Any] | None:
        """Read a list, of one length if given; None if absent or wrong."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.problem(f"{name} must be a list, not {quoted(value)}")
            return None
        if length is not None and len(value) != length:
            self.problem(f"{name} has {len(value)} entries for {length} layers")
            return None
        return value

    def whole_numbers(self, name: str) -> set[int]:
        """Read a list of whole numbers; none if absent or wrong."""
        items = self.items(name) or []
        wrong = [item for item in items if isinstance(item, bool) or not isinstance(item, int)]
        if wrong:
            self.problem(f"{name} must hold whole numbers, not {quoted(wrong[0])}")
            return set()
        return set(items)

    def quotient(self, left: str, a: int, right: str, b: int) -> int:
        """Divide two fields that must divide evenly."""
        if a % b and not any(problem.startswith((left, right)) for problem in self.problems):
            self.problem(f"{left} {a} is not divisible by {right} {b}")
        return max(a // b, 1)
