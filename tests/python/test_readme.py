"""The README's code runs as it stands there."""

import re

import numpy as np
import numpy.typing as npt
from max.driver import Buffer

from paths import ROOT


def test_first_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    seen: list[tuple[int, ...]] = []

    def my_model(
        tokens: npt.NDArray[np.int64],
        blocks: Buffer,
        cache_lengths: Buffer,
        lookup_table: Buffer,
        max_lengths: Buffer,
    ) -> int:
        assert len(blocks.shape) == 6
        assert lookup_table.shape[0] == 1
        seen.append((len(tokens), int(cache_lengths.to_numpy()[0])))
        assert max_lengths.to_numpy()[0, 0] == len(tokens)
        return 7

    names: dict[str, object] = {"my_model": my_model}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert seen == [(5, 0), *((1, n) for n in range(5, 24))]


README = (ROOT / "README.md").read_text()
