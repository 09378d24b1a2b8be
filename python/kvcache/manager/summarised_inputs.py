"""What a graph is fed with when blocks have summaries: a buffer a field."""

from collections.abc import Iterable
from functools import cache
from operator import itemgetter
from typing import Any, ClassVar, Self, TypeVar

from max.driver import Buffer
from max.graph import BufferType

from kvcache.manager.extended import Extended
from kvcache.manager.inputs import RaggedKVCacheInputs, RaggedKVCacheSymbols
from kvcache.summaries import Summaries

_Tuple = TypeVar("_Tuple", RaggedKVCacheInputs, RaggedKVCacheSymbols)


def with_summaries(
    inputs: _Tuple,
    summaries: Summaries,
    pools: Iterable[Buffer] | Iterable[BufferType],
) -> _Tuple:
    """Returns inputs, or their types, with those of the summaries behind.

    The result has all that `inputs` has, `summaries`, and a name for each
    further value: `summary_` and the field's.

    Args:
        inputs: The pages, their tables and, if quantised, their scales.
        summaries: What is kept of each block.
        pools: One pool, or its type, for each field.
    """
    names = tuple(f"summary_{field.name}" for field in summaries.fields)
    base: Any = type(inputs)
    extended: type[_Tuple] = _class_of(base, names)
    return extended._make((*inputs, *pools))


class _Summarised(Extended):
    """A tuple that the pools of summaries end."""

    __slots__ = ()

    _fields: ClassVar[tuple[str, ...]]
    _num_fields_before: ClassVar[int]

    def __new__(cls, *values: Any) -> Self:
        if len(values) != len(cls._fields):
            raise TypeError(
                f"wanted {', '.join(cls._fields)}, got {len(values)} values"
            )
        return tuple.__new__(cls, values)  # type: ignore[type-var]

    @property
    def summaries(self) -> tuple[Any, ...]:
        """The pools of the fields, in order."""
        return self[self._num_fields_before :]  # type: ignore[index, no-any-return]


@cache
def _class_of(base: Any, names: tuple[str, ...]) -> Any:
    """Makes the class of tuples that have such further fields."""
    fields = (*base._fields, *names)
    before = len(base._fields)
    members = {
        name: property(itemgetter(place), doc=f"The pool `{name}`.")
        for place, name in enumerate(names, before)
    }
    return type(
        f"Summarised{base.__name__}",
        (_Summarised, base),
        {
            "__slots__": (),
            "__match_args__": fields,
            "_fields": fields,
            "_num_fields_before": before,
            **members,
        },
    )
