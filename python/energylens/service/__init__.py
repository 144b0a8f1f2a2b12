"""From a step to a service: workloads, continuous batching, deployments, advice."""
