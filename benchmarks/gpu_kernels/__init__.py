"""What the GPU benchmark measures, a module a subject.

A subject is a module with two functions. `add_graphs(module)` adds the graphs
it wants to run, where they are compiled; `measure(bench)` checks and times
them, where the GPU is. `SUBJECTS` in `benchmarks.bench_gpu_kernels` lists them.
"""
