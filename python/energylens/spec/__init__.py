"""Reading specs: YAML with positions, checked forms of models and GPUs, and the canonical plan they make."""
