"""Options of money and carbon: prices of GPU-hours and kWh, grams of CO2, what the site adds."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from energylens.cli import axes
from energylens.cli.command import Parameter
from energylens.common.errors import Problem, SpaceError
from energylens.common.files import printable
from energylens.inputs import axis_text

_DECIMAL_COMMA: Final = re.compile(r"(?<![\d.])(\d+),(\d+)(?![\d.=])")


@dataclass
class CostOptions:
    """Money and carbon, beyond the joules of the GPUs."""

    gpu_hour: Annotated[str | None, Parameter(help="Price of a GPU-hour: 2.5, or h100-sxm=2.5,b200=4.")] = None
    kwh: Annotated[float | None, Parameter(help="Price of a kWh.")] = None
    pue: Annotated[float, Parameter(help="Power usage effectiveness of the site.")] = 1.0
    carbon: Annotated[str | None, Parameter(help="Grams of CO2 a kWh, one number or 24 by hour.")] = None
    server_w_per_gpu: Annotated[float, Parameter(help="Watts of the server beside each GPU.")] = 0.0

    def costs(self) -> Any:
        """Return them as `Costs`; raise `SpaceError`."""
        from energylens.serving.costs import Costs

        prices: Any = None
        carbon: list[float] | None = None
        problems: list[Problem] = []
        try:
            prices = None if self.gpu_hour is None else _prices(self.gpu_hour)
        except SpaceError as error:
            problems += error.problems
        try:
            carbon = None if self.carbon is None else [_number(part, "--carbon") for part in self.carbon.split(",")]
        except SpaceError as error:
            problems += error.problems
        try:
            costs = Costs(prices, self.kwh, self.pue, carbon, self.server_w_per_gpu)
        except SpaceError as error:
            problems += [self._of_carbon(problem) for problem in error.problems]
        if problems:
            raise SpaceError(problems)
        return costs

    def _of_carbon(self, problem: Problem) -> Problem:
        """Return a problem of costs, if of grams, under the name of the option."""
        name = "`carbon_g_per_kwh`"
        if not problem.message.startswith(name):
            return problem
        hint = problem.hint or "write the grams of CO2 of a kWh, as in 380"
        if self.carbon is not None and (comma := _DECIMAL_COMMA.fullmatch(self.carbon.strip())):
            hint = f"write {comma[1]}.{comma[2]}, with a decimal point, or {hint.removeprefix('give one number, or ')}"
        message = re.sub(r"(found -?\d+)\.0$", r"\1", f"`--carbon`{problem.message.removeprefix(name)}")
        return replace(problem, message=message, hint=hint)


def _prices(text: str) -> float | dict[str, float]:
    """Read `2.5`, or `h100-sxm=2.5,b200=4`."""
    parts = [part.partition("=") for part in axes.names(text)]
    if len(parts) > 1 and not all(sign for _, sign, _ in parts):
        hint = None if "=" in text else axis_text.meant(text, False)
        pointed = _DECIMAL_COMMA.sub(r"\1.\2", text)
        if pointed != text and all("=" in part for part in axes.names(pointed)):
            hint = f"write {pointed}, with a decimal point"
        hint = hint or "give one price for all, or name each GPU: h100-sxm=2.5,b200=4"
        raise SpaceError(Problem(f"cannot read the prices `{printable(text)}` of --gpu-hour", hint=hint, code="cost"))
    by_name = {name.strip(): _number(price, f"--gpu-hour {name.strip()}") for name, sign, price in parts if sign}
    return by_name or _number(parts[0][0] if parts else "", "--gpu-hour")


def _number(text: str, option: str) -> float:
    try:
        return axis_text.real(text)
    except ValueError:
        hint = axis_text.meant(text, False) if "," in text else None
        bare = re.sub(r"[^0-9.eE+-]", "", text)
        hint = hint or (f"write the number alone, without a currency or a unit: {bare}" if bare else "write a number")
        fault = f"cannot read `{printable(text)}` of {option} as a number"
        raise SpaceError(Problem(fault, hint=hint, code="cost")) from None
