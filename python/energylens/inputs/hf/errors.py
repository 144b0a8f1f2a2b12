"""Reasons why a Hugging Face config cannot become a spec."""

from collections.abc import Iterable

from energylens.common.errors import Problem, SpecError


class UnsupportedArchitecture(SpecError):
    """The model holds a piece that the equation language, or this importer, does not express."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        """Keep the reason as a problem."""
        is_text = isinstance(problems, str)
        super().__init__(Problem(str(problems), code="unsupported-architecture") if is_text else problems)  # type: ignore[arg-type]


class InvalidConfig(SpecError):
    """Fields of the config are absent, of a wrong kind or size, or contradict each other: all of them at once."""

    def __init__(self, problems: Iterable[str | Problem]) -> None:
        """Keep every problem."""
        super().__init__(Problem(p, code="invalid-config") if isinstance(p, str) else p for p in problems)
