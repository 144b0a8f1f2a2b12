"""Kernel times, fitted to published tables."""
