"""Joules and watts, fitted to measured kernel power."""
