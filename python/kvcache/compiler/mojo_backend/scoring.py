"""The launches by which blocks are scored."""

from collections.abc import Sequence
from dataclasses import replace

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.kernels import KernelText, scorer
from kvcache.compiler.mojo_backend.pipeline import Pipeline
from kvcache.compiler.operators.elementwise import Add_Mul
from kvcache.compiler.program import Kernel, Node, Program
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import FORMAT, vTensor
from kvcache.summaries import SummaryField


class ScorePlan:
    """The launches that score blocks."""

    def __init__(
        self,
        program: Program,
        fields: Sequence[SummaryField],
        group_size: int,
        head_dim: int,
        *,
        bindings: type[Bindings] = Bindings,
    ) -> None:
        program = _reading_scratch(program)
        self.program = program
        (self.score,) = _choice(program).inputs
        self.bindings = bindings(
            program, fields, group_size, head_dim, self.score
        )
        self.kernels: list[KernelText | None] = []
        self.launches = [
            kernel
            for kernel in program.kernels
            if kernel.nodes[0].op.kind != "topK"
        ]
        for number_, kernel in enumerate(self.launches):
            # What looks at all blocks is not generated.
            text = None
            if kernel.schedule is Schedule.W:
                pipeline = Pipeline(
                    kernel.nodes, kernel.stores, program.tensors
                )
                text = scorer(f"Score{number_}", pipeline, self.bindings)
            self.kernels.append(text)
        stored = {x for k in self.launches for x in k.stores}
        self.scratch = sorted(stored - {self.score})


def _choice(program: Program) -> Node:
    return next(
        node
        for kernel in program.kernels
        for node in kernel.nodes
        if node.op.kind == "topK"
    )


def _reading_scratch(program: Program) -> Program:
    """Has what looks at all blocks read copies of fields, not fields."""
    tensors, kernels = list(program.tensors), []
    for kernel in program.kernels:
        (*_, node) = kernel.nodes
        named = [x for x in node.inputs if x in program.names]
        if kernel.schedule is Schedule.W or not named:
            kernels.append(kernel)
            continue
        copy = len(tensors)
        tensors.append(
            vTensor(
                tensors[named[0]].shape,
                "float32",
                _format=FORMAT.RAGGED,
                tensor_id=copy,
            )
        )
        same = Node(node.op_id, Add_Mul(), (named[0],), copy)
        kernels += [
            Kernel((same,), (named[0],), (copy,), Schedule.W),
            replace(
                kernel,
                nodes=(replace(node, inputs=(copy,)),),
                reads=(copy,),
            ),
        ]
    return replace(program, tensors=tuple(tensors), kernels=tuple(kernels))
