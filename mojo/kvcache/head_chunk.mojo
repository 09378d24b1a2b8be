"""A chunk of a head on its way from `qkv` to where it belongs, on a GPU."""

from std.memory import AddressSpace
from std.sys import align_of

from .overlap import load_after_wait
from .rope import Rope


struct HeadChunk[
    dtype: DType, head_dim: Int, rope_dim: Int, interleaved: Bool, width: Int
](TrivialRegisterPassable):
    """The two vectors of a chunk, and the angles that turn them.

    Parameters:
        dtype: The element type.
        head_dim: The elements per head.
        rope_dim: The leading elements that turn; the others stay.
        interleaved: Whether a pair are neighbours.
        width: The pairs in a chunk.
    """

    comptime Turn = Rope[
        Self.head_dim, Self.rope_dim, Self.interleaved, Self.width
    ]
    """The rotation of a head."""

    comptime Vector = SIMD[Self.dtype, Self.width]
    """What is loaded and stored at once."""

    comptime align = Self.width * align_of[Scalar[Self.dtype]]()
    """The alignment of a vector, in bytes."""

    var x: Self.Vector
    """The vector at the first of the chunk's places."""

    var y: Self.Vector
    """The vector at the second one."""

    @always_inline
    def __init__(out self):
        """Starts with zeros."""
        self.x = 0
        self.y = 0

    @always_inline
    def __init__(out self, head: Pointer[Scalar[Self.dtype], _], chunk: Int):
        """Loads a chunk.

        Args:
            head: The head's first element.
            chunk: The chunk.
        """
        var first, second = Self.Turn.places(chunk)
        self.x = load_after_wait[Self.width](head.unsafe_offset(first))
        self.y = load_after_wait[Self.width](head.unsafe_offset(second))

    @staticmethod
    @always_inline
    def angles(
        position: Pointer[Float32, _], chunk: Int
    ) -> Angles[Self.rope_dim, Self.width]:
        """Loads a chunk's angles; one that does not turn has none.

        Args:
            position: The angles of the head's position.
            chunk: The chunk.

        Returns:
            The angles.
        """
        if not Self.Turn.turns(chunk):
            return Angles[Self.rope_dim, Self.width]()
        return Angles[Self.rope_dim, Self.width](
            position.unsafe_offset(chunk * Self.width)
        )

    @always_inline
    def turn(mut self, angles: Angles[Self.rope_dim, Self.width], chunk: Int):
        """Turns the pairs, if the chunk lies in the part that turns.

        Args:
            angles: The chunk's angles.
            chunk: The chunk.
        """
        if Self.Turn.turns(chunk):
            self.x, self.y = Self.Turn.turn(
                self.x, self.y, angles.cosine, angles.sine
            )

    @always_inline
    def store(
        self,
        head: Pointer[mut=True, Scalar[Self.dtype], _, address_space=_],
        chunk: Int,
    ):
        """Stores a chunk.

        Args:
            head: The head's first element.
            chunk: The chunk.
        """
        var first, second = Self.Turn.places(chunk)
        head.unsafe_store[alignment=Self.align](first, self.x)
        head.unsafe_store[alignment=Self.align](second, self.y)


struct Angles[rope_dim: Int, width: Int](TrivialRegisterPassable):
    """The angles of a chunk's pairs.

    Parameters:
        rope_dim: The leading elements of a head that turn.
        width: The pairs in a chunk.
    """

    var cosine: SIMD[DType.float32, Self.width]
    """The cosine of each pair."""

    var sine: SIMD[DType.float32, Self.width]
    """The sine of each pair."""

    @always_inline
    def __init__(out self):
        """Starts with zeros."""
        self.cosine = 0
        self.sine = 0

    @always_inline
    def __init__(out self, angles: Pointer[Float32, _]):
        """Loads the angles of a chunk that turns.

        Args:
            angles: The first pair's cosine, in the table of all positions.
        """
        self.cosine = load_after_wait[Self.width](angles)
        self.sine = load_after_wait[Self.width](
            angles.unsafe_offset(Self.rope_dim // 2)
        )
