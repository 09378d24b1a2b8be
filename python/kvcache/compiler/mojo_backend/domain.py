"""How a tile's elements are shared among the lanes of a team."""

from dataclasses import dataclass

WIDEST = 8
"""The most elements of a vector: 16 bytes of 16-bit numbers, and what shares a
scale of quantised pages."""

WARP = 32
"""The lanes of a warp."""


@dataclass(frozen=True, slots=True)
class Domain:
    """The elements of a tile, in vectors, in rounds of one for each lane."""

    rows: int
    columns: int
    lanes: int
    is_scattered: bool = False
    """Whether elements side by side are made of elements far apart."""

    @property
    def width(self) -> int:
        """Elements of a vector, all in one row."""
        width = 1 if self.is_scattered else WIDEST
        while self.columns % width or (
            self.is_wide and width > 1 and self.columns < width * self.lanes
        ):
            width //= 2
        return width

    @property
    def is_wide(self) -> bool:
        """Whether lanes of several warps share a tile, to be done sooner."""
        return self.lanes > WARP

    @property
    def vectors(self) -> int:
        """Vectors of a row."""
        return self.columns // self.width

    @property
    def chunks(self) -> int:
        """Rounds in which each lane has a vector of a row."""
        return -(-self.vectors // self.lanes)

    @property
    def is_partial(self) -> bool:
        """Whether some lanes have none in the last round."""
        return self.vectors % self.lanes != 0

    @property
    def is_everywhere(self) -> bool:
        """Whether every lane has all of it: a single column."""
        return self.columns == 1
