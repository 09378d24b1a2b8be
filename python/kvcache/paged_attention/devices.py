"""The names of devices, whoever's devices they are."""

import re

from kvcache.errors import InvalidParamsError

_KINDS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "hip": "gpu"}


def device_name(device: object) -> str:
    """Returns a device's name, such as "cpu:0" or "gpu:1".

    Args:
        device: A device of MAX, of torch, or a name; "cuda" is a "gpu", and
            a name without a number is the first one's.

    Raises:
        InvalidParamsError: If it is none of these.
    """
    text = device if isinstance(device, str) else _text(device)
    found = re.fullmatch(r"([a-z]+)(?::(0|[1-9][0-9]{0,3}))?", text)
    if found is None or found[1] not in _KINDS:
        raise InvalidParamsError(
            f"`devices` must be names such as 'cpu:0' and 'gpu:1', or devices "
            f"of MAX or torch, got {device!r}"
        )
    name = f"{_KINDS[found[1]]}:{found[2] or 0}"
    if is_host(name) and name != "cpu:0":
        raise InvalidParamsError(
            f"`devices` must name the CPU cpu:0, as there is one, got {name}"
        )
    return name


def _text(device: object) -> str:
    kind = getattr(device, "label", getattr(device, "type", ""))
    number = getattr(device, "id", getattr(device, "index", None))
    return f"{kind}" if number is None else f"{kind}:{number}"


def is_host(device: str) -> bool:
    """Returns whether a named device is the CPU."""
    return device.startswith("cpu:")


def number_of(device: str) -> int:
    """Returns a named device's number."""
    return int(device.partition(":")[2])
