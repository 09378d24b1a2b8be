"""What `bench_manager` measures: streams of tokens, sides, and workloads."""
