"""Pages of a GPU that go to pinned host memory and come back."""

from max.driver import Accelerator

from host_contents import check_contents_come_back


def test_contents_come_back() -> None:
    check_contents_come_back(Accelerator())
