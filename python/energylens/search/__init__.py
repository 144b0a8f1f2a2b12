"""Multi-objective search of a space: `search()` with one of several engines."""

from energylens.search.searching import search

__all__ = ["search"]
