"""Facts hidden in long texts, and whether a model finds them again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.sparse.texts import HAYSTACK, chapter
from kvcache.model import Tokenizer

CITIES = (
    *("Berlin", "Lisbon", "Nairobi", "Toronto", "Osaka", "Lima", "Oslo"),
    *("Cairo", "Sydney", "Dublin", "Athens", "Prague", "Quito", "Riga"),
    *("Seoul", "Tunis", "Vienna", "Warsaw", "Zurich", "Madrid"),
)


@dataclass(frozen=True, slots=True)
class Needle:
    """One question about one fact in a long text."""

    tokens: list[int]
    """The text, the question and the answer."""
    question: int
    """Where the question starts."""
    answer: int
    """Where the answer starts."""


def needles(tokenizer: Tokenizer, length: int, count: int) -> Iterator[Needle]:
    """Yields needles at evenly spread depths.

    All have the same length, and the same place of question and answer.

    Args:
        tokenizer: The model's.
        length: Tokens of text and question.
        count: How many.
    """
    rng = np.random.default_rng(length)
    words = tokenizer.encode(chapter(HAYSTACK))
    for index in range(count):
        city = CITIES[index % len(CITIES)]
        number = " ".join(str(rng.integers(1, 10)) for _ in range(5))
        fact = tokenizer.encode(
            f"\n\nThe magic number of {city} is {number}.\n\n"
        )
        opening = tokenizer.encode(
            "<|im_start|>user\nRemember the magic number in this text.\n\n"
        )
        question = tokenizer.encode(
            f"\n\nWhat is the magic number of {city}?<|im_end|>\n"
            f"<|im_start|>assistant\nThe magic number of {city} is"
        )
        answer = tokenizer.encode(f" {number}")
        room = length - len(opening) - len(fact) - len(question)
        depth = int(room * (index + 0.5) / count)
        text = [*opening, *words[:depth], *fact, *words[depth:room], *question]
        yield Needle([*text, *answer], length - len(question), length)
