"""Reasons why a Hugging Face config cannot become a spec."""


class UnsupportedArchitecture(ValueError):
    """The model holds a piece that the equation language, or this importer, does not express."""


class InvalidConfig(ValueError):
    """Fields of the config are absent or contradict each other; `problems` lists all of them."""

    def __init__(self, problems: list[str]) -> None:
        """Keep every problem and join them to one message."""
        self.problems = list(problems)
        super().__init__("invalid config: " + "; ".join(self.problems))
