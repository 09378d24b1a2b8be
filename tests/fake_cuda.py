"""A CUDA driver that copies on the host at once, and fake queues."""

import ctypes
from types import SimpleNamespace
from typing import Any

from kvcache.manager.copy_engines import CopyEngines
from kvcache.manager.cuda_driver import CudaDriver

DEFAULT = "default"
CONTEXT = 77
STREAMS = [1000 + place for place in range(16)]


class FakeLibrary:
    """Does what the driver's functions do, and writes down what was called."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.current: list[int | None] = []
        self.refused: dict[str, int] = {}
        self.refused_stream = 0

    def cuStreamGetCtx(self, stream: Any, context: Any) -> int:  # noqa: N802  (the driver's)
        context._obj.value = CONTEXT + stream.value
        return self.refused.get("cuStreamGetCtx", 0)

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802  (the driver's)
        self.current.append(context.value)
        return self.refused.get("cuCtxPushCurrent_v2", 0)

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802  (the driver's)
        context._obj.value = self.current.pop()
        return self.refused.get("cuCtxPopCurrent_v2", 0)

    def cuMemcpyBatchAsync(self, *arguments: Any) -> int:  # noqa: N802  (the driver's)
        *places, count, attributes, first, num_attributes, _, stream = arguments
        assert self.current == [CONTEXT + stream.value]
        assert num_attributes.value == 1
        assert first._obj.value == 0
        assert bytes(attributes._obj) == b"\1" + bytes(23)
        if stream.value == self.refused_stream:
            return self.refused["cuMemcpyBatchAsync"]
        words = ctypes.POINTER(ctypes.c_uint64)
        rows = [ctypes.cast(place, words)[: count.value] for place in places]
        for target, source, size in zip(*rows, strict=True):
            ctypes.memmove(target, source, size)
        self.log.append((stream.value, count.value))
        return 0


class FakeQueue:
    """Writes down what it waits for."""

    def __init__(self, log: list[Any], name: Any) -> None:
        self.log = log
        self.native_stream_handle = name

    def wait_for(self, other: "FakeQueue") -> None:
        names = self.native_stream_handle, other.native_stream_handle
        self.log.append(names)


class Machine:
    """A device of fake queues with the engines over them."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.library = FakeLibrary(self.log)
        device: Any = SimpleNamespace(
            default_queue=FakeQueue(self.log, DEFAULT)
        )
        queues: Any = [FakeQueue(self.log, stream) for stream in STREAMS]
        self.engines = CopyEngines(CudaDriver(self.library), device, queues)
