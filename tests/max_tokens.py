"""MAX's `TokenBuffer`, from its file alone.

Its package wants transformers, which the project does not.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import max.driver


def load() -> Any:
    folder = Path(max.driver.__file__).parent.parent
    path = folder / "pipelines" / "context" / "tokens.py"
    spec = importlib.util.spec_from_file_location("max_tokens_of_max", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dataclasses look themselves up.
    spec.loader.exec_module(module)
    return module.TokenBuffer


TOKEN_BUFFER = load()
