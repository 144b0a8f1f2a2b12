"""Multi-objective search of a space: `search()` with NSGA-II, `energylens.explore` for every point."""

from energylens.search.nsga import search

__all__ = ["search"]
