"""What people write: models, GPUs, workloads, points and jobs, read from YAML and checked."""
