"""Graphs of one operation, compiled once for each device and kept."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from max.driver import Device
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Graph, Module

from kvcache.compiler.mojo_backend.packages import is_whole, seal
from kvcache.mojo_sources import precompiled_package


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What a graph is built of; its kinds are subclasses."""

    name: str
    """The generated module."""
    extension: Path
    """The module's file, compiled."""

    @property
    def label(self) -> str:
        """What the graph's file is called beside the module and device."""
        raise NotImplementedError

    def graph(self, device: DeviceRef, module: Module | None = None) -> Graph:
        """Builds the graph for a device, in a module if one is given."""
        raise NotImplementedError

    def mef(self, device: str) -> Path:
        """Returns the file of the compiled graph."""
        return self.extension.with_name(
            f"{self.name}_{device}_{self.label}.mef"
        )

    @property
    def extensions(self) -> list[Path]:
        """The packages that the graph needs."""
        return [precompiled_package(), self.extension]


@cache
def loaded(plan: GraphPlan, device: Device) -> Model:
    """Loads the graph of a device, compiled before or now."""
    session = InferenceSession(devices=[device])
    reference = DeviceRef.from_device(device)
    label = "cpu" if device.is_host else f"gpu_{device.architecture_name}"
    mef = plan.mef(label)
    if not is_whole(mef):
        compiled = session.compile(
            plan.graph(reference), custom_extensions=plan.extensions
        )
        staged = mef.with_name(f".writing_{id(compiled)}_{mef.name}")
        compiled.export_mef(staged)
        staged.replace(mef)
        seal(mef)
    return session.load(mef)
