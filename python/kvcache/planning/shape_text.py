"""Reads what a model keeps of a request from a line of text."""

from kvcache.errors import InvalidParamsError
from kvcache.planning.shape import ModelShape, RecurrentState, WindowLayers

_HEADS = ("kv_heads", "head_dim")
_KEYS = (
    "layers",
    *_HEADS,
    "latent_dim",
    "window",
    "window_layers",
    "state_bytes",
)


def parse_shape(text: str) -> ModelShape:
    """Returns the shape that a text such as `layers=32,kv_heads=8,...` means.

    Args:
        text: Pairs of a name and a positive whole number: `layers` that keep
            keys and values; `kv_heads` and `head_dim`, or `latent_dim`;
            `window` in tokens, of `window_layers` of the layers or of all;
            `state_bytes` that recurrent layers keep of a request.

    Raises:
        InvalidParamsError: If a name is unknown, missing or there twice, two of
            them contradict each other, or a value is no positive number.
    """
    sizes = _sizes(text)
    is_mla = "latent_dim" in sizes
    beside = [key for key in _HEADS if key in sizes]
    if is_mla and beside:
        raise InvalidParamsError(
            f"wanted latent_dim, or kv_heads and head_dim, got latent_dim and "
            f"{beside[0]}"
        )
    for key in ("layers", *(() if is_mla else _HEADS)):
        if key not in sizes:
            raise InvalidParamsError(f"wanted {key} in the shape, got {text!r}")
    if "window_layers" in sizes and "window" not in sizes:
        raise InvalidParamsError(
            f"wanted a window for window_layers, got {text!r}"
        )
    state = sizes.get("state_bytes")
    return ModelShape(
        num_layers=sizes["layers"],
        num_kv_heads=1 if is_mla else sizes["kv_heads"],
        head_dim=sizes["latent_dim" if is_mla else "head_dim"],
        is_mla=is_mla,
        window=WindowLayers(
            num_layers=sizes.get("window_layers", sizes["layers"]),
            tokens=sizes["window"],
        )
        if "window" in sizes
        else None,
        state=RecurrentState(
            num_layers=1, recurrent_bytes=state, num_shares=state
        )
        if state
        else None,
    )


def _sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in _KEYS:
            raise InvalidParamsError(
                f"wanted {', '.join(_KEYS)} in the shape, got {part.strip()!r}"
            )
        if key in sizes:
            raise InvalidParamsError(f"wanted one {key}, got two")
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            raise InvalidParamsError(
                f"wanted a positive whole number for {key}, got {value!r}"
            )
        sizes[key] = int(value)
    return sizes
