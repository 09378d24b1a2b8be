"""Reads what a model keeps of a request from wherever the model is."""

import os
from pathlib import Path

from kvcache.model.error import ModelError
from kvcache.model.fields import Fields
from kvcache.model.gguf_file import read_gguf
from kvcache.model.gguf_llama import config_from_gguf
from kvcache.planning.hf_config import shape_from_config
from kvcache.planning.shape import ModelShape


def read_shape(path: str | os.PathLike[str]) -> ModelShape:
    """Reads a model's description; its weights are not looked at.

    Args:
        path: A Hugging Face folder, its `config.json`, or a GGUF file of a
            Llama model.

    Raises:
        ModelError: If there is no such file, or `shape_from_config` or the
            reader of GGUF refuses what it says.
    """
    place = Path(path)
    if place.is_dir():
        place /= "config.json"
    if not place.exists():
        raise ModelError(
            f"wanted a GGUF file, a config.json or its folder, got no such "
            f"file: {place}"
        )
    if place.suffix == ".json":
        return shape_from_config(Fields.from_json(place))
    file = read_gguf(place)
    llama = config_from_gguf(file, Fields(file.metadata, str(place)))
    return ModelShape(
        num_layers=llama.num_layers,
        num_kv_heads=llama.num_kv_heads,
        head_dim=llama.head_dim,
        max_seq_len=llama.max_seq_len,
    )
