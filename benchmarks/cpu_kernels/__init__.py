"""The parts of `benchmarks.bench_cpu_kernels`."""
