"""Who is measured: our interfaces, and the peers that are installed."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.manager import our_core, ours
from benchmarks.manager.hashing import HashPages
from benchmarks.manager.sides import Factory, Pool


@dataclass(frozen=True, slots=True)
class LineUp:
    """Sides by name, in the order in which they take turns: ours first."""

    ours: dict[str, Factory]
    peers: dict[str, Factory]
    books: dict[str, Callable[[Pool], object]]
    """The books alone, without pages."""
    hashes: dict[str, HashPages]
    missing: list[str]
    """Who is not measured, and why."""

    @property
    def factories(self) -> dict[str, Factory]:
        """Every side."""
        return self.ours | self.peers

    @property
    def best(self) -> str:
        """Our fastest interface that there is."""
        return next(iter(self.ours))


def line_up() -> LineUp:
    """Returns who can be measured here."""
    sides, missing = ours.offered()
    best = next(iter(sides))
    books: dict[str, Callable[[Pool], object]] = {best: our_core.make_books}
    hashes: dict[str, HashPages] = {"kvcache": our_core.hash_pages}
    found: dict[str, Factory] = {}
    try:
        from benchmarks.manager import peers
    except ImportError as error:
        missing.append(
            f"max-paged and max-jenga, which want max[serve]: {error}"
        )
    else:
        found = {"max-paged": peers.MaxPaged, "max-jenga": peers.MaxJenga}
        books["max-paged"] = peers.make_paged_books
        books["max-jenga"] = peers.make_jenga_books
        hashes["max-paged"] = peers.hash_pages
    return LineUp(sides, found, books, hashes, missing)
