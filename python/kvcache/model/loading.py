"""Reads a model from wherever it is."""

from __future__ import annotations

import os
from pathlib import Path

from kvcache.model.error import ModelError
from kvcache.model.gguf_llama import load_gguf
from kvcache.model.hf_llama import load_folder
from kvcache.model.weights import LlamaModel


def load_model(path: str | os.PathLike[str]) -> LlamaModel:
    """Reads a GGUF file or a Hugging Face folder of a Llama model.

    Args:
        path: A GGUF file, or a folder with `config.json` and
            `model.safetensors` (or several with an index).

    Returns:
        The model with float32 weights under their Hugging Face names. Weights
        that are stored as float32 stay in the mapped file until they are used.

    Raises:
        ModelError: If there is no such file, it is neither of the two, the
            model is not a Llama, or it uses something that we do not compute.

    Examples:
        >>> model = load_model("SmolLM2-135M-Instruct.Q4_1.gguf")
        >>> model.config.num_layers
        30
    """
    place = Path(path)
    if place.is_dir():
        return load_folder(place)
    if not place.exists():
        raise ModelError(
            f"wanted a GGUF file or a Hugging Face folder, got no such file: "
            f"{place}"
        )
    if place.suffix == ".safetensors":
        raise ModelError(
            f"wanted a GGUF file or the folder around {place.name}, got the "
            f"file {place}"
        )
    return load_gguf(place)
