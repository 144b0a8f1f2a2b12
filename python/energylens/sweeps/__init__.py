"""Sweeps as jobs: a space cut into shards that any process on any machine can do, merged to one set of files."""
