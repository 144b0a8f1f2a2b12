"""The budget of memory: read from the environment, and what goes beyond it is refused with its size."""

import pytest

from energylens.common.errors import EnergylensError
from energylens.common.memory import MemoryBudgetError, budget_bytes, machine_bytes, require_bytes


@pytest.mark.parametrize(("text", "value"), [("8GB", 8e9), ("2GiB", 2 * 2**30), ("100000000", 1e8), ("1.5 gb", 1.5e9)])
def test_written_in_bytes(monkeypatch: pytest.MonkeyPatch, text: str, value: float) -> None:
    monkeypatch.setenv("ENERGYLENS_MEMORY", text)
    assert budget_bytes() == int(value)


def test_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENERGYLENS_MEMORY", raising=False)
    assert budget_bytes() == int(machine_bytes() * 0.5)
    monkeypatch.setenv("ENERGYLENS_MEMORY", "25%")
    assert budget_bytes() == int(machine_bytes() * 0.25)


@pytest.mark.parametrize("text", ["", "-1", "lots", "1", "8XB", "nan", "1e9"])
def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ENERGYLENS_MEMORY", text)
    if not text:
        assert budget_bytes() > 0
        return
    with pytest.raises(EnergylensError, match="ENERGYLENS_MEMORY"):
        budget_bytes()


def test_refusal_names_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYLENS_MEMORY", "1GB")
    require_bytes(1e9, "a trace")
    with pytest.raises(MemoryBudgetError) as caught:
        require_bytes(6e9, "the trace `a`", "give fewer requests")
    assert "would need 6 GB of memory, and the budget is 1 GB" in str(caught.value)
    assert "give fewer requests; or set ENERGYLENS_MEMORY=7GB" in str(caught.value.problems[0].hint)
