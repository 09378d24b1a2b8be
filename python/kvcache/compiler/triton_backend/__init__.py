"""Pipelines as Triton kernels, for tensors of torch on CUDA.

The package itself needs neither; what it generates does.
"""

from kvcache.compiler.triton_backend.emitter import triton_module

__all__ = ["triton_module"]
