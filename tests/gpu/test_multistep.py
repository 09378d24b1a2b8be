"""Steps on a GPU follow each other without the host."""

import pytest
from max.driver import Accelerator

from multistep import check_sixteen_steps


def test_sixteen_steps_need_no_host_work_but_the_increment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_sixteen_steps(Accelerator(), monkeypatch)
