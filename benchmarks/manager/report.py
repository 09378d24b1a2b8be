"""Rows of results, one for each of our sides and each peer, and a table."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.manager.timing import Timing
from benchmarks.rows import Row, context, processor


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one case, for all sides."""

    case: str
    page_size: int
    timings: Mapping[str, Timing]
    details: Mapping[str, object]


def is_ours(who: str) -> bool:
    """Returns whether a side is ours."""
    return who.startswith("kvcache")


def rows(figures: Figures) -> Iterator[Row]:
    """Yields a row for each of our sides beside each peer.

    `ratio` says how many times as long the peer took. Without a peer it is
    None, and so is `peer`.
    """
    timings = figures.timings
    mine = [who for who in timings if is_ours(who)]
    peers: list[str | None] = [who for who in timings if not is_ours(who)]
    for who in mine:
        for peer in peers or [None]:
            yield _row(figures, who, peer)


def _row(figures: Figures, who: str, peer: str | None) -> Row:
    own = figures.timings[who]
    row: Row = {
        "case": figures.case,
        "page_size": figures.page_size,
        **figures.details,
        "who": who,
        "peer": peer,
        "us": round(own.us, 3),
        "cpu_us": round(own.cpu_us, 3),
        "inputs_us": round(own.inputs_us, 3),
        "ratio": None,
        "spread": round(own.spread, 3),
    }
    if peer is not None:
        other = figures.timings[peer]
        row |= {
            "ratio": round(other.us / own.us, 2),
            "cpu_ratio": round(other.cpu_us / own.cpu_us, 2),
            "peer_us": round(other.us, 3),
            "peer_cpu_us": round(other.cpu_us, 3),
            "peer_inputs_us": round(other.inputs_us, 3),
            "peer_spread": round(other.spread, 3),
        }
    return row


def where() -> Row:
    """Returns what every row says about where it was measured."""
    machine = processor()
    found = context("cpu")
    return {"machine": machine, **found}


def table(found: Iterable[Row]) -> Iterator[str]:
    """Yields the lines of a table of rows."""
    titles = (
        "case", "page", "who", "peer", "us", "cpu us", "peer us",
        "peer cpu", "ratio", "cpu", "spread",
    )  # fmt: skip
    yield _LINE.format(*titles)
    for row in found:
        yield _LINE.format(
            _name(row),
            row["page_size"],
            row["who"],
            row["peer"] or "-",
            _number(row["us"]),
            _number(row["cpu_us"]),
            _number(row.get("peer_us")),
            _number(row.get("peer_cpu_us")),
            _number(row["ratio"]),
            _number(row.get("cpu_ratio")),
            f"{row['spread']:.0%}",
        )


_LINE = "{:<34} {:>4}  {:<19} {:<9}" + " {:>9}" * 4 + " {:>7}" * 3


def _name(row: Row) -> str:
    """Returns a row's case with what tells it from the others of the case."""
    parts = [row["case"], row.get("operation"), row.get("num_pages")]
    if "is_full" in row:
        parts.append("full" if row["is_full"] else "empty")
    return " ".join(str(part) for part in parts if part is not None)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
