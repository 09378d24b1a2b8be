"""Turns stored tensors into float32, on every core.

What a quantised block means is known to the package `gguf`. It works through a
tensor in groups of 16 rows; rows are joined here to make the groups as large as
a cache likes, which is five times as fast and gives the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from kvcache.model.error import ModelError, require
from kvcache.model.gguf_file import GgufFile
from kvcache.model.weights import Weights

_GROUP_ROWS = 16
_GROUP_BYTES = 1 << 18


def check_types(file: GgufFile) -> None:
    """Checks that every tensor can be dequantised and lies in the file.

    Raises:
        ModelError: For the first tensor of which that is not so.
    """
    for name, tensor in file.tensors.items():
        if 0 in tensor.shape:
            raise ModelError(
                f"{file.path}: wanted positive sizes for tensor {name}, got "
                f"{list(tensor.shape)}"
            )
        num_bytes = stored_bytes(file, name)
        if tensor.offset + num_bytes > len(file.data):
            raise ModelError(
                f"{file.path}: wanted {num_bytes} bytes at byte "
                f"{tensor.offset} for tensor {name}, got a file of "
                f"{len(file.data)} bytes: it is cut short"
            )


def stored_bytes(file: GgufFile, name: str) -> int:
    """Returns how many bytes a tensor takes in the file.

    Raises:
        ModelError: If its type is unknown, or its rows are no whole blocks.
    """
    constants = require("gguf.constants")
    tensor = file.tensors[name]
    try:
        kind = constants.GGMLQuantizationType(tensor.type_id)
        block, block_bytes = constants.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"{file.path}: wanted a tensor type that the package gguf knows "
            f"for {name}, got {tensor.type_id}"
        ) from error
    size = int(np.prod(tensor.shape, dtype=object))
    row = tensor.shape[-1] if tensor.shape else 1
    if row % block:
        raise ModelError(
            f"{file.path}: wanted rows of whole {kind.name} blocks of {block} "
            f"for tensor {name}, got rows of {row}"
        )
    return int(size // block * block_bytes)


def stored_rows(file: GgufFile, name: str) -> npt.NDArray[np.uint8]:
    """Returns a tensor's bytes as they are stored, `[rows, row_bytes]`."""
    tensor = file.tensors[name]
    num_bytes = stored_bytes(file, name)
    flat = np.frombuffer(file.data, np.uint8, num_bytes, tensor.offset)
    rows = int(np.prod(tensor.shape[:-1]))
    return flat.reshape(rows, num_bytes // rows)


def dequantise(
    rows: npt.NDArray[np.uint8], type_id: int, name: str
) -> npt.NDArray[np.float32]:
    """Returns the float32 numbers that stored rows stand for.

    Args:
        rows: The bytes of each row, `[rows, row_bytes]`.
        type_id: The `GGMLQuantizationType` of the bytes.
        name: The tensor's name, for the message.

    Returns:
        The numbers, `[rows, columns]`.

    Raises:
        ModelError: If the package `gguf` cannot dequantise the type.
    """
    quants = require("gguf.quants")
    kind = require("gguf.constants").GGMLQuantizationType(type_id)
    num_rows, row_bytes = rows.shape
    joined = 1
    while (
        num_rows % (2 * joined) == 0
        and 2 * joined * row_bytes * _GROUP_ROWS <= _GROUP_BYTES
    ):
        joined *= 2
    try:
        numbers = quants.dequantize(rows.reshape(-1, joined * row_bytes), kind)
    except NotImplementedError as error:
        raise ModelError(
            f"wanted a tensor type that the package gguf can dequantise for "
            f"{name}, got {kind.name}"
        ) from error
    floats: npt.NDArray[np.float32] = np.require(
        numbers.reshape(num_rows, -1), np.float32, ["C", "A", "W"]
    )
    return floats


def compute_all(
    jobs: Mapping[str, Callable[[], npt.NDArray[np.float32]]],
) -> Weights:
    """Runs one job a tensor on all cores; NumPy lets go of the GIL.

    Returns:
        What each job returned, in the order of `jobs`.
    """
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        results = pool.map(lambda job: job(), jobs.values())
        return dict(zip(jobs, results, strict=True))
