"""The options of `kvcache plan`, and how their values are read."""

from pathlib import Path
from typing import Annotated

import typer

from kvcache.cli.options import read_size

PlannedModel = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="PATH",
        help="A Hugging Face config.json or its folder, or a GGUF file.",
    ),
]
ShapeText = Annotated[
    str | None,
    typer.Option(
        "--shape",
        metavar="NAME=N,...",
        help="In place of a model: layers=32,kv_heads=8,head_dim=128, or "
        "layers=61,latent_dim=576. window=4096 is for all layers, or for "
        "window_layers=N of them; state_bytes=N is what recurrent layers keep "
        "of a request, and layers does not count them.",
    ),
]
DeviceMemory = Annotated[
    int,
    typer.Option(
        parser=read_size,
        metavar="SIZE",
        help="Memory of one device, such as 80GiB, 80GB or 80000000000.",
    ),
]
Utilization = Annotated[
    float, typer.Option(help="Share of the memory that may be used at all.")
]
InUse = Annotated[
    int | None,
    typer.Option(
        parser=read_size,
        metavar="SIZE",
        help="What weights and all else take of that share on one device.",
    ),
]
MaxLen = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens of the longest request; by default the model's context.",
    ),
]
MeanLen = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Tokens of a usual request."),
]
HostMemory = Annotated[
    int | None,
    typer.Option(
        parser=read_size,
        metavar="SIZE",
        help="Host memory for pages that are swapped out.",
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Elements of a token's head that share a scale; by default all.",
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(
        "--tp", min=1, metavar="N", help="Devices that share the heads."
    ),
]
