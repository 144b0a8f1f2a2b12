"""A service under a workload: steady state, replay, plans, pools, advice."""
