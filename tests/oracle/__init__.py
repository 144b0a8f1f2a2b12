"""Slow, plain-loop oracle of the step model, written from docs/physics.md alone."""

from .step import predict as predict
