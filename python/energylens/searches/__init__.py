"""Multi-objective search of a space: `search()` with one of several engines."""

from energylens.searches.searching import search

__all__ = ["search"]
