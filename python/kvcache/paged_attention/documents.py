"""Data classes as JSON and back, nothing lost and nothing run.

A document is an object of JSON. Its keys are "format", "version" and "type",
and then the fields of the class that "type" names. Nested classes have "type"
and fields, arrays are as `array_documents` says, tuples and lists are arrays of
JSON, and the rest are numbers, strings, booleans and null.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from kvcache.errors import DocumentError
from kvcache.paged_attention.array_documents import array_from, array_to
from kvcache.paged_attention.backend import backend_of
from kvcache.paged_attention.checks import shown
from kvcache.paged_attention.mesh import Mesh
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharding import NamedSharding, PartitionAxis
from kvcache.quantization import Quantization

FORMAT = "kvcache.paged_attention"
"""What a document of ours says that it is."""

VERSION = 1
"""The one version there is; another one is refused."""

_HEADER = {"format": FORMAT, "version": VERSION}

_TYPES: dict[str, Callable[..., object]] = {
    each.__name__: each
    for each in (
        Mesh,
        NamedSharding,
        PageQuantizer,
        PartitionAxis,
        Quantization,
    )
}


class Document:
    """A data class that can be written down.

    Each class is known by its name, to be rebuilt where it is nested; the
    first one of a name is.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Makes the class known."""
        super().__init_subclass__(**kwargs)
        _TYPES.setdefault(cls.__name__, cls)

    def replace(self, **kwargs: Any) -> Self:
        """Returns a copy in which some fields have other values.

        Args:
            **kwargs: The new values, by the fields' names.

        Raises:
            TypeError: If there is no such field.
            ValueError: If the values do not go together.
        """
        return dataclasses.replace(self, **kwargs)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Returns the document, made of what JSON has."""
        found: dict[str, Any] = {**_HEADER, **_encode(self)}
        return found

    def to_json(self, **kwargs: Any) -> str:
        """Returns the document as text.

        Args:
            **kwargs: What `json.dumps` takes, such as `indent`.
        """
        return json.dumps(self.to_dict(), **kwargs)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Returns what a document says.

        Args:
            data: What `to_dict` returns.

        Raises:
            DocumentError: If the document is not one of this class, or of
                another version, or a field is missing, foreign or wrong; the
                message begins with the field.
        """
        if not isinstance(data, Mapping):
            raise DocumentError(
                f"document: wanted an object, got {shown(data)}"
            )
        wanted = {**_HEADER, "type": cls.__name__}
        for name, value in wanted.items():
            found = data.get(name)
            if type(found) is not type(value) or found != value:
                raise DocumentError(
                    f"{name}: wanted {value!r}, got {shown(found)}"
                )
        body = {k: v for k, v in data.items() if k not in _HEADER}
        try:
            built: Self = _build(cls, body, "")
        except RecursionError as error:
            raise DocumentError(
                "document: wanted one as deep as a cache is, got a deeper one"
            ) from error
        return built

    @classmethod
    def from_json(cls, json_str: str) -> Self:
        """Returns what a document's text says.

        Args:
            json_str: What `to_json` returns.

        Raises:
            DocumentError: If it is not JSON, has a key twice, or is not a
                document of this class.
        """
        try:
            data = json.loads(
                json_str,
                object_pairs_hook=_without_doubles,
                parse_constant=_refuse_constant,
            )
        except DocumentError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise DocumentError(f"document: wanted JSON, {error}") from error
        return cls.from_dict(data)


def _encode(value: object) -> Any:
    if isinstance(value, str):
        return str(value)  # An enumeration's member is its name.
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(each) for each in value]
    if type(value).__name__ in _TYPES and dataclasses.is_dataclass(value):
        parts = {
            each.name: _encode(getattr(value, each.name))
            for each in dataclasses.fields(value)
        }
        return {"type": type(value).__name__, **parts}
    if backend_of(value) is not None:
        return array_to(value)
    raise TypeError(
        f"wanted a field that can be written down, got {shown(value)}"
    )


def _decode(value: object, path: str) -> object:
    if isinstance(value, list):
        return tuple(
            _decode(each, f"{path}[{index}]")
            for index, each in enumerate(value)
        )
    if not isinstance(value, dict):
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise DocumentError(f"{path}: wanted JSON, got {shown(value)}")
    name = value.get("type")
    if name == "array":
        return array_from(value, path)
    if not isinstance(name, str) or name not in _TYPES:
        raise DocumentError(
            f"{_join(path, 'type')}: wanted one of array, "
            f"{', '.join(sorted(_TYPES))}, got {shown(name)}"
        )
    return _build(_TYPES[name], value, path)


def _build(kind: Any, value: dict[str, Any], path: str) -> Any:
    """Returns an object of a class."""
    name = kind.__name__
    wanted = {each.name for each in dataclasses.fields(kind)}
    given = set(value) - {"type"}
    for field in sorted(map(str, given - wanted)):
        raise DocumentError(
            f"{_join(path, field)}: wanted no such field in a {name}"
        )
    for field in sorted(wanted - given):
        raise DocumentError(
            f"{_join(path, field)}: wanted it in a {name}, it is missing"
        )
    fields = {each: _decode(value[each], _join(path, each)) for each in wanted}
    try:
        built = kind(**fields)
    except DocumentError:
        raise
    except ValueError as error:
        where = f"{path}: " if path else ""
        raise DocumentError(f"{where}{error}") from error
    for field in sorted(wanted):
        _check_kept(built, field, value[field], path)
    return built


def _check_kept(built: object, field: str, raw: object, path: str) -> None:
    """Refuses what a constructor takes but no document of ours says."""
    if not isinstance(raw, dict) and not _has_objects(raw):
        kept = getattr(built, field)
        is_array = backend_of(kept) is not None
        said = "an array" if is_array else _encode(kept)
        if said != raw:
            raise DocumentError(
                f"{_join(path, field)}: wanted {shown(said)}, got {shown(raw)}"
            )


def _has_objects(raw: object) -> bool:
    return isinstance(raw, list) and any(
        isinstance(each, dict) or _has_objects(each) for each in raw
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DocumentError(f"{twice}: wanted it once, got it twice")
    return found


def _refuse_constant(text: str) -> None:
    raise DocumentError(f"document: wanted JSON, got {text}")
