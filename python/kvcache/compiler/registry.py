"""Flows by name."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from kvcache.compiler.flow import vFlow
from kvcache.errors import InvalidParamsError

FlowType = TypeVar("FlowType", bound=type[vFlow])

_FLOWS: dict[str, type[vFlow]] = {}
_SHORT_NAMES: dict[str, str] = {}


def register(name: str, *aliases: str) -> Callable[[FlowType], FlowType]:
    """Returns a decorator that makes a flow known by its name.

    A class that is defined again, in the same module under the same name,
    takes the place of the earlier one.

    Args:
        name: What people call the flow: letters, digits and underscores.
        *aliases: Further names for it.

    Raises:
        InvalidParamsError: If a name is none or means another flow.
        TypeError: If what is decorated is no class of flows.
    """
    names = (name, *aliases)
    for each in names:
        if not each.isidentifier():
            raise InvalidParamsError(
                f"wanted a name of letters, digits and _, got {each!r}"
            )

    def add(flow: FlowType) -> FlowType:
        _check_flow(flow)
        for each in names:
            _check_free(each, flow)
        for each in names:
            _FLOWS[each] = flow
            _SHORT_NAMES[each] = name
        return flow

    return add


def flow_names() -> list[str]:
    """Returns the names of all flows, without aliases, in order."""
    _load_shipped()
    return sorted(set(_SHORT_NAMES.values()))


def flow_class(name: str) -> type[vFlow]:
    """Returns the flow of a name or an alias.

    Raises:
        InvalidParamsError: If there is none; the text lists the names.
    """
    _load_shipped()
    if name not in _FLOWS:
        raise InvalidParamsError(
            f"wanted a flow: {', '.join(flow_names())}, got {name!r}"
        )
    return _FLOWS[name]


def make_flow(name: str, **settings: Any) -> vFlow:
    """Returns a new flow.

    Args:
        name: Its name or an alias.
        **settings: What its class is made with.

    Raises:
        InvalidParamsError: If there is no such flow; the text lists the names.
    """
    return flow_class(name)(**settings)


def parse_sparse(text: str) -> tuple[str, float]:
    """Returns the flow and the budget that a text such as `quest:0.25` means.

    Args:
        text: The name of a flow, a colon, and the share of its blocks that a
            sequence attends to.

    Returns:
        The flow's name (its own where the text has an alias), and the share,
        above 0 and at most 1.

    Raises:
        InvalidParamsError: If the text means none.
    """
    name, colon, share = text.partition(":")
    if not colon:
        raise InvalidParamsError(
            f"wanted FLOW:SHARE, such as quest:0.25, got {text!r}"
        )
    flow_class(name)
    try:
        ratio = float(share)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio <= 1:
        raise InvalidParamsError(
            f"wanted a share of blocks above 0 and at most 1, got {share!r}"
        )
    return _SHORT_NAMES[name], ratio


def _check_flow(flow: object) -> None:
    if not (isinstance(flow, type) and issubclass(flow, vFlow)):
        raise TypeError(f"wanted a class derived from vFlow, got {flow!r}")


def _check_free(name: str, flow: type[vFlow]) -> None:
    known = _FLOWS.get(name)
    if known is not None and _home(known) != _home(flow):
        raise InvalidParamsError(
            f"wanted a name that no flow has, got {name!r} of {_home(known)}"
        )


def _home(flow: type[vFlow]) -> str:
    return f"{flow.__module__}.{flow.__qualname__}"


def _load_shipped() -> None:
    """Registers the flows of this package, which need this module."""
    import kvcache.compiler.flows  # noqa: F401
