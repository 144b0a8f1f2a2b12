"""Advice to those who serve: how much to batch, what to replicate, which lengths are cheap, what to change first."""
