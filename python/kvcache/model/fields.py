"""Typed reads from metadata that a stranger wrote.

GGUF metadata and `config.json` are both mappings from names to anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from kvcache.model.error import ModelError


class Fields:
    """A mapping whose values are checked as they are read.

    A key that is absent and a key whose value is None are the same.

    Args:
        values: The mapping.
        source: What it was read from; starts every message.
    """

    def __init__(self, values: Mapping[str, object], source: str) -> None:
        self._values = values
        self.source = source

    @classmethod
    def from_json(cls, path: Path) -> Fields:
        """Reads a file that holds one JSON object.

        Raises:
            ModelError: If the file is absent or holds anything else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(
                f"wanted a readable file {path}: {error.strerror}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path}: wanted JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(
                f"{path}: wanted a JSON object, got {_shown(values)}"
            )
        return cls(values, str(path))

    def __contains__(self, key: str) -> bool:
        """Returns whether the key has a value other than None."""
        return self._values.get(key) is not None

    def __getitem__(self, key: str) -> object:
        """Returns a value as it stands, None where there is none."""
        return self._values.get(key)

    def __iter__(self) -> Iterator[str]:
        """Yields the keys in the mapping's order."""
        return iter(self._values)

    def optional_integer(self, key: str) -> int | None:
        """Returns a whole number, or None where the key is absent.

        Raises:
            ModelError: If the value is anything else.
        """
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise self._wrong(key, "a whole number")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Returns a whole number, or `default` where the key is absent.

        Raises:
            ModelError: If it is no whole number, or absent with no default.
        """
        value = self.optional_integer(key)
        value = default if value is None else value
        if value is None:
            raise self._wrong(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a finite number, or `default` where the key is absent.

        Raises:
            ModelError: If it is no finite number, or absent with no default.
        """
        value = self._values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        if not math.isfinite(value):
            raise self._wrong(key, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false, or `default` where the key is absent.

        Raises:
            ModelError: If the value is neither.
        """
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def optional_text(self, key: str) -> str | None:
        """Returns a string, or None where the key is absent.

        Raises:
            ModelError: If the value is anything else.
        """
        value = self._values.get(key)
        if not isinstance(value, str | None):
            raise self._wrong(key, "a string")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Returns a string, or `default` where the key is absent.

        Raises:
            ModelError: If it is no string, or absent with no default.
        """
        value = self.optional_text(key)
        value = default if value is None else value
        if value is None:
            raise self._wrong(key, "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """Returns a list of strings.

        Raises:
            ModelError: If the value is anything else, or absent.
        """
        value = self._values.get(key)
        if not isinstance(value, list) or not all(
            isinstance(item, str) for item in value
        ):
            raise self._wrong(key, "a list of strings")
        return value

    def integers(self, key: str) -> list[int]:
        """Returns a list of whole numbers.

        Raises:
            ModelError: If the value is anything else, or absent.
        """
        value = self._values.get(key)
        if not isinstance(value, list) or not all(
            isinstance(item, int) and not isinstance(item, bool)
            for item in value
        ):
            raise self._wrong(key, "a list of whole numbers")
        return value

    def numbers(self, key: str) -> list[float]:
        """Returns a list of numbers.

        Raises:
            ModelError: If the value is anything else, or absent.
        """
        value = self._values.get(key)
        if not isinstance(value, list) or not all(
            isinstance(item, int | float) for item in value
        ):
            raise self._wrong(key, "a list of numbers")
        return value

    def object(self, key: str) -> Fields | None:
        """Returns a nested object, or None where the key is absent.

        Raises:
            ModelError: If the value is anything else.
        """
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Fields(value, f"{self.source}: {key}")

    def _wrong(self, key: str, wanted: str) -> ModelError:
        came = _shown(self._values.get(key)) if key in self else "nothing"
        return ModelError(
            f"{self.source}: wanted {wanted} for {key}, got {came}"
        )


def _shown(value: object, limit: int = 60) -> str:
    """Shows a value on one short line."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
