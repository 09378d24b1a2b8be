"""Contexts that keep what was recorded, and what is generated from it."""

from typing import Any, ClassVar

from kvcache.compiler.context_base import ContextBase
from kvcache.compiler.program import Side
from kvcache.compiler.vop import vOp
from kvcache.compiler.vtensor import FORMAT, vTensor


class GraphContext(ContextBase):
    """A context with the lists of a recorded pipeline.

    Tensors and operators are numbered in the order in which they come.
    `output_tensor_to_op_list` is as long as `tensor_list`, the two lists of
    operands as long as `op_list`.
    """

    __slots__ = (
        "auxilary_func_def_lines",
        "compilation_cache_dir",
        "compilation_header_lines",
        "impl_backend",
        "op_list",
        "op_to_input_tensor_list",
        "op_to_output_tensor_list",
        "output_tensor_to_op_list",
        "sparse_attention_name",
        "tensor_id_to_current_id_map",
        "tensor_id_to_tensor_name_map",
        "tensor_list",
    )

    side: ClassVar[Side]
    """Which half of a flow the context records."""

    tensor_list: list[vTensor]
    """All tensors, by their ids."""
    op_list: list[vOp]
    """All operators, in the order of their calls."""
    output_tensor_to_op_list: list[int | None]
    """For each tensor the operator that makes it, or None."""
    op_to_input_tensor_list: list[list[int]]
    """For each operator the tensors that it reads."""
    op_to_output_tensor_list: list[list[int]]
    """For each operator the tensor that it makes, in a list."""
    tensor_id_to_tensor_name_map: dict[int, str]
    """What generated code calls a tensor: `cache['k']`, `q` or `o`."""
    tensor_id_to_current_id_map: dict[int, int]
    """For each tensor that was replaced in place, what replaced it."""
    compilation_header_lines: list[str]
    """Lines at the top of the generated module."""
    auxilary_func_def_lines: list[str]
    """Functions and kernels that the generated module has beside its own."""
    compilation_cache_dir: str | None
    """The folder of generated modules; None for the default one."""
    sparse_attention_name: str
    """What the pipeline is called: its parent's class and its side.

    Compiled classes and files add a digest of what was recorded.
    """
    impl_backend: str
    """Which backend compiles the pipeline: mojo (as made), numpy or triton."""

    def reset_graph(self) -> None:
        """Forgets what was recorded and generated."""
        self.tensor_list = []
        self.op_list = []
        self.output_tensor_to_op_list = []
        self.op_to_input_tensor_list = []
        self.op_to_output_tensor_list = []
        self.tensor_id_to_tensor_name_map = {}
        self.tensor_id_to_current_id_map = {}
        self.compilation_header_lines = []
        self.auxilary_func_def_lines = []

    def add_tensor(
        self,
        tile: tuple[int, int],
        dtype: str,
        _format: FORMAT,
        *,
        rows: int = 0,
        name: str | None = None,
        device: object = "cpu",
    ) -> vTensor:
        """Adds a tensor that no operator makes yet.

        Args:
            tile: The extents inside a row.
            dtype: Element type.
            _format: What its rows stand for.
            rows: The rows it needs, 0 while nobody knows.
            name: What the caller calls it, if the caller gives it.
            device: Where its memory will be.
        """
        tensor = vTensor(
            (rows, *tile),
            dtype,
            device,
            _format=_format,
            tensor_id=len(self.tensor_list),
        )
        self.tensor_list.append(tensor)
        self.output_tensor_to_op_list.append(None)
        if name is not None:
            self.tensor_id_to_tensor_name_map[tensor.tensor_id] = name
        return tensor

    def record(self, op: vOp, inputs: list[vTensor], output: vTensor) -> None:
        """Adds an operator, which makes `output` from now on.

        Args:
            op: The operator, which has checked its operands.
            inputs: The tensors that it reads, in the order of its operands.
            output: The tensor that it makes; one of this context.
        """
        self.output_tensor_to_op_list[output.tensor_id] = len(self.op_list)
        self.op_list.append(op)
        self.op_to_input_tensor_list.append([x.tensor_id for x in inputs])
        self.op_to_output_tensor_list.append([output.tensor_id])
        op.was_recorded(self.op_list, output)

    def replace(self, old: vTensor, new: vTensor) -> None:
        """Lets later readers of `old` read `new`."""
        self.tensor_id_to_current_id_map[old.tensor_id] = new.tensor_id

    def current(self, tensor: vTensor) -> vTensor:
        """Returns what has replaced a tensor in place, or the tensor."""
        current = tensor.tensor_id
        while current in self.tensor_id_to_current_id_map:
            current = self.tensor_id_to_current_id_map[current]
        return self.tensor_list[current]

    def holds(self, tensor: vTensor) -> bool:
        """Returns whether a tensor is one of this recording."""
        index = tensor.tensor_id
        known = 0 <= index < len(self.tensor_list)
        return known and self.tensor_list[index] is tensor

    def _check_overwrite(self, *, overwrite: bool) -> None:
        if self._created and not overwrite:
            raise RuntimeError(
                "Context.create() already called; "
                "pass overwrite=True to reinitialize."
            )

    def _fill(self, fields: dict[str, Any]) -> None:
        """Sets fields that were all checked before."""
        self.reset_graph()
        for name, value in fields.items():
            setattr(self, name, value)
        self._created = True
