"""Lines of Mojo, and names of what was computed already."""

from collections.abc import Iterator
from contextlib import contextmanager

Index = int | str
"""A place: known while code is generated, or an expression."""


class Code:
    """The body of a function, line by line.

    A value that was computed is not computed again where its name is in
    scope.
    """

    def __init__(self, depth: int = 2) -> None:
        """Begins at a depth of indentation."""
        self._lines: list[str] = []
        self._depth = depth
        self._scopes: list[dict[object, str]] = [{}]
        self._count = 0

    def line(self, text: str) -> None:
        """Adds a line."""
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Adds a line that opens a block, and what is added inside of it."""
        self.line(head)
        with self.scope(1):
            length = len(self._lines)
            yield
            if len(self._lines) == length:
                self.line("pass")

    @contextmanager
    def scope(self, depth: int = 0) -> Iterator[None]:
        """Forgets at the end what was named inside."""
        self._depth += depth
        self._scopes.append({})
        yield
        self._scopes.pop()
        self._depth -= depth

    def name(self, prefix: str) -> str:
        """Returns a name that nothing has yet."""
        self._count += 1
        return f"{prefix}_{self._count}"

    def known(self, key: object) -> str | None:
        """Returns the name of what was computed already, if it was."""
        for scope in reversed(self._scopes):
            if key in scope:
                return scope[key]
        return None

    def let(self, key: object, prefix: str, expression: str) -> str:
        """Names the value of an expression, and returns the name."""
        name = self.name(prefix)
        self.line(f"var {name} = {expression}")
        self._scopes[-1][key] = name
        return name

    def text(self) -> str:
        """Returns all lines."""
        return "\n".join(self._lines) + "\n"


def scaled(place: Index, factor: int, plus: Index = 0) -> Index:
    """Returns `place * factor + plus`."""
    if isinstance(place, int) and isinstance(plus, int):
        return place * factor + plus
    product = place * factor if isinstance(place, int) else place
    if isinstance(product, str) and factor != 1:
        product = f"{product} * {factor}"
    if plus == 0:
        return f"({product})"
    return f"({product} + {plus})"


def split(place: Index, length: int) -> tuple[Index, Index]:
    """Returns quotient and remainder of a place and a length."""
    if isinstance(place, int):
        return divmod(place, length)
    if length == 1:
        return place, 0
    return f"({place} // {length})", f"({place} % {length})"


def number(value: float) -> str:
    """Returns a constant of type Float32."""
    if value != value:  # noqa: PLR0124 - only NaN differs from itself
        return "nan[DType.float32]()"
    if value in {float("inf"), float("-inf")}:
        sign = "-" if value < 0 else ""
        return f"({sign}inf[DType.float32]())"
    return f"Float32({float(value)!r})"
