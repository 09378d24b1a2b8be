"""Long walks through what an owner of a core does most.

The state machine shrinks what it finds and asks for what must be refused; a
walk goes where it seldom gets: many sequences that share much, for long.
"""

from math import inf
from random import Random

import pytest

from core_owner import Owner, Seq
from core_twins import ints, make_twins

NUM_STEPS = 120
NUM_SEQUENCES = 5


class Walk:
    """Draws what comes next from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        size = random.choice([1, 2, 2, 3, 3, 4])
        core = make_twins(
            random.randint(4, 14),
            size,
            NUM_SEQUENCES,
            enable_prefix_caching=random.random() < 0.95,
            num_host_pages=random.choice([0, 1, 3, 8]),
            collides=random.random() < 0.3,
        )
        self.owner = Owner(core)
        self.longest = min(5 * size, 14)
        self.trunks = [self.tokens(20) for _ in range(2)]
        self.now = 0.0

    def tokens(self, most: int) -> list[int]:
        length = self.random.randint(1, most)
        return [int(self.random.random() < 0.2) for _ in range(length)]

    def prompt(self) -> list[int]:
        """Returns the beginning of a trunk, often with another end."""
        trunk = self.random.choice(self.trunks)
        length = self.random.randint(1, self.longest)
        end = self.tokens(3) if self.random.random() < 0.5 else []
        return trunk[:length] + end

    def seq(self) -> Seq:
        if not self.owner.seqs:
            self.claim()
        return self.random.choice(self.owner.seqs)

    def make_room(self) -> None:
        while len(self.owner.seqs) >= NUM_SEQUENCES:
            self.leave()

    def leave(self) -> None:
        self.owner.release(self.seq())

    def claim(self) -> None:
        self.make_room()
        space = self.random.choice([b"", b"", b"", b"a"])
        seq = self.owner.claim(space, self.prompt())
        if self.random.random() < 0.3:
            self.retain(seq)

    def retain(self, seq: Seq) -> None:
        priority = self.random.choice([0, 20, 35, 36, 60, 60, 100])
        lasts = self.random.choice([inf, 1.0, 2.0, 2.0, 6.0])
        expires = self.now + lasts if priority > 35 else 0.0
        self.owner.core.set_retention(
            seq.id, priority=priority, expires=expires
        )

    def run(self, *, is_adopting: bool = False) -> None:
        """Takes pages for some, computes and commits, now and then less."""
        random, owner = self.random, self.owner
        self.seq()
        count = random.randint(1, min(3, len(owner.seqs)))
        batch = random.sample(owner.seqs, count)
        options = {"max_onload": random.choice([None, None, None, 1, 2])}
        if not is_adopting:
            options["num_steps"] = random.choice([1, 1, 2, 3])
            options["min_partial"] = random.choice([None, 1, 1, 2])
            options["loses"] = random.random() < 0.2
        active = [random.choice([2, 5, 99, 99]) for _ in batch]
        if not owner.take(batch, active, **options):
            self.leave()
            return
        for seq in batch if random.random() < 0.9 else []:
            if seq.processed < len(seq.tokens) < seq.end:
                seq.tokens += self.tokens(4)[: seq.end - len(seq.tokens)]
            owner.write(seq, seq.end)
        if random.random() < 0.8:
            owner.commit(batch)

    def fork(self) -> None:
        seq = self.seq()
        self.make_room()
        if seq in self.owner.seqs:
            least = max(0, seq.processed - self.owner.size)
            processed = self.random.randint(least, seq.processed)
            self.owner.fork(seq, processed, self.tokens(4))

    def truncate(self) -> None:
        seq = self.seq()
        length = self.random.randint(0, seq.processed + 2)
        if length < seq.processed:
            seq.tokens = seq.tokens[:length] + self.tokens(4)
        self.owner.truncate_to(seq, length)

    def rewind(self) -> None:
        seq = self.seq()
        length = self.random.randint(0, seq.processed)
        seq.tokens = seq.tokens[:length] + self.tokens(4)
        seq.processed = seq.end = length
        seq.may_be_refused = True

    def drop(self) -> None:
        seq = self.seq()
        self.owner.core.drop(seq.id, self.random.randint(0, 4))
        self.owner.is_exact = False
        for other in self.owner.seqs:
            other.may_be_refused = True

    def tick(self) -> None:
        self.now += self.random.choice([0.0, 0.5, 1.0, 1.0])
        self.owner.core.tick(self.now)

    def look(self) -> None:
        space, tokens = self.random.choice([b"", b"a"]), self.prompt()
        probe = self.owner.core.probe(space, ints(tokens))
        end = len(probe.pages) * self.owner.size
        self.owner.model.check(probe.pages.tolist(), end, (space, *tokens))

    def forget(self) -> None:
        self.owner.core.forget_cached()
        self.owner.is_exact = False

    def go(self) -> None:
        steps = {
            self.claim: 6,
            self.run: 14,
            lambda: self.run(is_adopting=True): 2,
            lambda: self.retain(self.seq()): 2,
            self.leave: 3,
            self.fork: 3,
            self.truncate: 1,
            self.rewind: 1,
            self.drop: 0.5,
            self.tick: 3,
            self.look: 2,
            self.forget: 0.3,
        }
        chosen = self.random.choices(
            list(steps), list(steps.values()), k=NUM_STEPS
        )
        for step in chosen:
            step()
            self.owner.check()


@pytest.mark.parametrize("seed", range(120))
def test_every_row_holds_its_tokens_wherever_a_walk_goes(seed: int) -> None:
    Walk(seed).go()
