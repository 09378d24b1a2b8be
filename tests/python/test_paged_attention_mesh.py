import math
from typing import Any

import numpy as np
import pytest
from max.driver import CPU

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention import (
    Mesh,
    NamedSharding,
    PartitionAxis,
    PartitionSpec,
)
from kvcache.paged_attention.mesh import as_mesh


class Ranks:
    """What a mesh of torch shows, without its processes."""

    def __init__(self, kind: str, ranks: Any, names: Any) -> None:
        self.device_type = kind
        self.mesh = np.asarray(ranks)
        self.mesh_dim_names = names


def test_a_mesh_names_its_devices_and_axes() -> None:
    mesh = Mesh([[CPU(), "cpu"], ["cuda:1", "gpu"]], ("dp", "tp"))
    assert mesh.devices == ("cpu:0", "cpu:0", "gpu:1", "gpu:0")
    assert mesh.shape == {"dp": 2, "tp": 2}
    assert mesh.size == 4
    assert mesh == Mesh(mesh.devices, ("dp", "tp"), (2, 2))
    assert mesh == Mesh(
        np.array([["cpu", "cpu"], ["gpu:1", "gpu:0"]]), ("dp", "tp")
    )
    assert Mesh("cpu", "tp") == Mesh([CPU()], ["tp"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["cpu"], ("dp", "tp")), "`axis_names` must name 1 axes"),
        ((["cpu"] * 2, ("dp", "tp"), (2, 2)), "`devices` must be 4 to fill"),
        (([], ("tp",)), "`devices` must be 0 to fill"),
        (([["cpu"], ["cpu"] * 2], ("a", "b")), "must be nested evenly"),
        ((["cpu"], ("",)), "`axis_names` must be names"),
        ((["cpu"], (3,)), "`axis_names` must be names"),
        ((["cpu"], 3), "`axis_names` must be names"),
        (([["cpu"]], ("a", "a")), "`axis_names` must be different"),
        ((["cpu"], "tp", (0,)), "`axis_sizes` must be positive"),
        ((["tpu:0"], "tp"), "`devices` must be names such as 'cpu:0'"),
        ((["cpu:00"], "tp"), "`devices` must be names"),
        ((["cpu:1"], "tp"), "`devices` must name the CPU cpu:0"),
        ((["cpu:-1"], "tp"), "`devices` must be names"),
        (([None], "tp"), "`devices` must be names"),
        (([3], "tp"), "`devices` must be names"),
    ],
)
def test_a_mesh_that_is_none_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        Mesh(*arguments)


def test_a_mesh_of_torch_is_one_of_ours() -> None:
    found = as_mesh(Ranks("cuda", [[0, 1], [2, 3]], ("dp", "tp")))
    assert found == Mesh([f"gpu:{x}" for x in range(4)], ("dp", "tp"), (2, 2))
    on_cpu = as_mesh(Ranks("cpu", [3, 5], ["tp"]))
    assert on_cpu == Mesh(["cpu", "cpu"], "tp")


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (None, "must be a Mesh or a torch DeviceMesh, got NoneType"),
        (["cpu"], "got list"),
        (Ranks("cuda", [0], None), "must name its axes in mesh_dim_names"),
        (Ranks("xpu", [0], ("tp",)), "`devices` must be names"),
        (Ranks("cuda", [0, 1], ("a", "b")), "`axis_names` must name 1 axes"),
    ],
)
def test_what_is_no_mesh_is_refused(mesh: object, message: str) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        as_mesh(mesh)


@pytest.mark.parametrize("axis", ["", 3, ("tp", 3), ("tp", ""), {"tp"}])
def test_an_axis_is_a_name_names_or_none(axis: Any) -> None:
    with pytest.raises(InvalidParamsError, match="`head_axis` must be a name"):
        PartitionAxis(head_axis=axis)
    with pytest.raises(InvalidParamsError, match="`spec` must be a name"):
        PartitionSpec(axis)


def test_the_heads_are_split_by_default() -> None:
    assert PartitionAxis().pages_spec == PartitionSpec("tp", None, None, None)
    axes = PartitionAxis(batch_axis=("fsdp", "dp"), sequence_axis="sp")
    wanted = ("tp", ("fsdp", "dp"), "sp", None)
    assert axes.pages_spec == PartitionSpec(*wanted)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (("sp",), "`spec` must name axes of the mesh, dp, tp, got sp"),
        (("tp", "tp"), "`spec` must use an axis once"),
        ((("tp", "tp"),), "`spec` must use an axis once"),
        ("tp", "`spec` must be a PartitionSpec, got 'tp'"),
        (None, "`spec` must be a PartitionSpec"),
    ],
)
def test_a_sharding_that_does_not_fit_its_mesh_is_refused(
    spec: Any, message: str
) -> None:
    mesh = Mesh([["cpu"] * 2] * 2, ("dp", "tp"))
    with pytest.raises(InvalidParamsError, match=message):
        NamedSharding(mesh, spec)
    with pytest.raises(InvalidParamsError, match="`mesh` must be a Mesh"):
        NamedSharding(None, PartitionSpec())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        (),
        ("a",),
        (None, "b"),
        ("c", None, "a"),
        (("a", "b"),),
        (("b", "a"), "c"),
        (("c", "a", "b"), None, None),
        ("c", "b", "a"),
    ],
)
def test_parts_are_those_of_a_grid_of_devices(spec: Any) -> None:
    grid = (2, 3, 2)
    mesh = Mesh(["cpu"] * 12, ("a", "b", "c"), grid)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    whole = np.arange(12 * 12 * 6).reshape(12, 12, 6)
    found = [whole[part] for part in sharding.parts(whole.shape)]
    used = []
    for place, (a, b, c) in enumerate(np.ndindex(grid)):
        wanted, at = whole, {"a": (a, 2), "b": (b, 3), "c": (c, 2)}
        for dimension, axis in enumerate(spec):
            names = (axis,) if isinstance(axis, str) else axis or ()
            for name in names:  # The first name splits coarsest.
                index, count = at[name]
                wanted = np.split(wanted, count, axis=dimension)[index]
        np.testing.assert_array_equal(found[place], wanted)
        used.append(wanted.tobytes())
    assert sharding.num_shards == len(set(used))
    assert sharding.num_replicas == 12 // len(set(used))
    assert sum(map(math.prod, (x.shape for x in found))) == (
        whole.size * sharding.num_replicas
    )
