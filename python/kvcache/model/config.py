"""What a Llama-architecture model looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcache.model.error import ModelError
from kvcache.model.rope import DivisorScaling, RopeScaling, inverse_frequencies


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The shape and the constants of one model.

    Raises:
        ModelError: If a size is not positive, the query heads are no multiple
            of the KV heads, or `head_dim` is odd.
    """

    num_layers: int
    """Decoder layers."""
    hidden_size: int
    """Width of the residual stream."""
    num_q_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key-value heads; each serves `num_q_heads / num_kv_heads` query heads."""
    head_dim: int
    """Elements per head."""
    intermediate_size: int
    """Width inside the SwiGLU block."""
    vocab_size: int
    """Rows of the embedding."""
    max_seq_len: int
    """Longest context, in tokens."""
    rope_theta: float
    """Base of the rotary frequencies."""
    rms_norm_eps: float
    """What RMSNorm adds to the mean square."""
    tie_embeddings: bool
    """Whether the embedding is also the output projection."""
    rope_scaling: RopeScaling | None = None
    """How the context is stretched."""

    def __post_init__(self) -> None:
        """Checks every field."""
        for name in (
            "num_layers",
            "hidden_size",
            "num_q_heads",
            "num_kv_heads",
            "head_dim",
            "intermediate_size",
            "vocab_size",
            "max_seq_len",
            "rope_theta",
            "rms_norm_eps",
        ):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ModelError(f"wanted a positive {name}, got {value}")
        if self.num_q_heads % self.num_kv_heads:
            raise ModelError(
                f"wanted num_q_heads to be a multiple of num_kv_heads "
                f"{self.num_kv_heads}, got {self.num_q_heads}"
            )
        if self.head_dim % 2:
            raise ModelError(f"wanted an even head_dim, got {self.head_dim}")
        if isinstance(self.rope_scaling, DivisorScaling):
            self.rope_scaling.check(self.head_dim // 2)

    @property
    def q_size(self) -> int:
        """Elements of all query heads of one token."""
        return self.num_q_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of all key heads of one token."""
        return self.num_kv_heads * self.head_dim

    def rope_inverse_frequencies(self) -> npt.NDArray[np.float64]:
        """Returns the rotary embedding's inverse frequencies.

        The angle of pair `i` at position `p` is `p` times the `i`-th. Pair `i`
        is the elements `i` and `i + head_dim / 2` of a head (half-split order).

        Returns:
            Radians per position in float64, `[head_dim / 2]`.
        """
        return inverse_frequencies(
            self.head_dim, self.rope_theta, self.rope_scaling
        )
