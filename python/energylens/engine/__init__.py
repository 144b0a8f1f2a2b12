"""Points in, results out: the space, its evaluation in the core, and reductions over it."""
