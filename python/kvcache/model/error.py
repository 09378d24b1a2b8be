"""The one error that reading a model raises."""

from __future__ import annotations

import importlib
from types import ModuleType

from kvcache.errors import KVCacheError


class ModelError(KVCacheError, ValueError):
    """A model that cannot be read or is not one we can run.

    Its message is one line that says what was wanted and what came, also where
    it quotes somebody else's longer one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(map(str.strip, message.splitlines())))


def require(module: str) -> ModuleType:
    """Imports an optional dependency where it is first needed.

    Args:
        module: The module's full name, such as `gguf.quants`.

    Returns:
        The imported module.

    Raises:
        ModelError: If its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"wanted the package `{module.partition('.')[0]}`, which is not "
            "installed: it comes with the extra `kvcache[demo]`"
        ) from error
