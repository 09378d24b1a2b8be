"""What `bench_pools` runs: ours, and torch's own of the same effect."""
