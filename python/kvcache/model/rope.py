"""Rotary embedding frequencies, and the ways models stretch them.

Every rule maps inverse frequencies to inverse frequencies in float64: one that
is off in its last float32 digit becomes a wrong angle at position 8,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.model.error import ModelError

Frequencies: TypeAlias = npt.NDArray[np.float64]
"""Inverse frequencies, radians per position, `[head_dim / 2]`."""


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every position counts as `1 / factor` of a position."""

    factor: float
    """How many times longer the context becomes."""

    def __post_init__(self) -> None:
        """Checks the factor."""
        _check_positive(factor=self.factor)

    def scale(self, frequencies: Frequencies) -> Frequencies:
        """Divides every frequency by the factor."""
        return frequencies / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies are divided, high ones kept, a ramp in between.

    References:
        "The Llama 3 Herd of Models", https://arxiv.org/abs/2407.21783; the
        parameters are those of `rope_scaling` in Llama 3.1's `config.json`.
    """

    factor: float
    """What the lowest frequencies are divided by."""
    low_freq_factor: float
    """Fewer turns than this in the original context: divided."""
    high_freq_factor: float
    """More turns than this in the original context: kept."""
    original_max_seq_len: int
    """The context before the stretch, in tokens."""

    def __post_init__(self) -> None:
        """Checks that the ramp goes upwards."""
        _check_positive(
            factor=self.factor,
            low_freq_factor=self.low_freq_factor,
            original_max_seq_len=self.original_max_seq_len,
        )
        if not self.high_freq_factor > self.low_freq_factor:
            raise ModelError(
                "rope scaling: wanted high_freq_factor above low_freq_factor "
                f"{self.low_freq_factor}, got {self.high_freq_factor}"
            )

    def scale(self, frequencies: Frequencies) -> Frequencies:
        """Blends the frequency and its fraction along the ramp."""
        turns = self.original_max_seq_len * frequencies / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        kept = np.clip((turns - self.low_freq_factor) / span, 0.0, 1.0)
        scaled: Frequencies = frequencies * (kept + (1 - kept) / self.factor)
        return scaled


@dataclass(frozen=True, slots=True)
class DivisorScaling:
    """A divisor for each frequency: GGUF's tensor `rope_freqs.weight`."""

    divisors: tuple[float, ...]
    """One divisor a frequency, `[head_dim / 2]`."""

    def __post_init__(self) -> None:
        """Checks every divisor."""
        for divisor in self.divisors:
            _check_positive(divisor=divisor)

    def scale(self, frequencies: Frequencies) -> Frequencies:
        """Divides each frequency by its divisor."""
        self.check(len(frequencies))
        scaled: Frequencies = frequencies / np.array(self.divisors)
        return scaled

    def check(self, num_frequencies: int) -> None:
        """Checks that there is a divisor for each frequency.

        Raises:
            ModelError: If there are more or fewer.
        """
        if len(self.divisors) != num_frequencies:
            raise ModelError(
                f"rope scaling: wanted {num_frequencies} divisors, "
                f"got {len(self.divisors)}"
            )


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | DivisorScaling
"""How a model stretches its context."""


def inverse_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Frequencies:
    """Returns `theta ** (-2 i / head_dim)`, stretched.

    Args:
        head_dim: The elements per head, even.
        theta: The base.
        scaling: How the context is stretched, or None.

    Returns:
        The inverse frequencies in float64, `[head_dim / 2]`.

    Raises:
        ModelError: If the scaling is for another `head_dim`.

    References:
        RoFormer, https://arxiv.org/abs/2104.09864.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequencies: Frequencies = np.power(np.float64(theta), -exponents)
    return frequencies if scaling is None else scaling.scale(frequencies)


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise ModelError(
                f"rope scaling: wanted a positive {name}, got {number}"
            )
