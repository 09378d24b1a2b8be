"""What a query sees and how its scores are formed, as the tests set it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules that one attention graph is compiled with."""

    window: int | None = None
    sink_tokens: int = 0
    has_sinks: bool = False
    softcap: float | None = None

    def __str__(self) -> str:
        parts = ["attention"]
        if self.window is not None:
            parts.append(f"window_{self.window}_{self.sink_tokens}")
        if self.has_sinks:
            parts.append("sinks")
        if self.softcap is not None:
            parts.append(f"cap_{self.softcap:g}")
        return "_".join(parts)

    def seen(self, cached: int, new: int) -> npt.NDArray[np.bool_]:
        """Returns which positions of a sequence its new tokens see.

        A sequence without new tokens shows all of its positions.
        """
        seen = np.ones(cached + new, np.bool_)
        if self.window is not None and new:
            seen[self.sink_tokens : max(0, cached + 1 - self.window)] = False
        return seen


CAUSAL = Rules()
"""All that came before, and nothing else."""
