"""Which cached tokens a query sees, and what becomes of its scores.

Every attention kernel takes these rules. What a rule needs is compiled in only
where the rule is in use.

See:
    [Longformer](https://arxiv.org/abs/2004.05150), for the sliding window,
    [StreamingLLM](https://arxiv.org/abs/2309.17453), for tokens that stay
    visible, [gpt-oss](https://arxiv.org/abs/2508.10925), for sinks that are
    learned, and [Gemma 2](https://arxiv.org/abs/2408.00118), for the soft cap.
"""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.math import exp
from std.utils.numerics import neg_inf

comptime LOG2_E: Float32 = 1.4426950408889634
"""The binary logarithm of e."""

comptime NOTHING: Float32 = -1e30
"""Below every score, and finite: the largest score of no keys."""


@fieldwise_init
struct RulesInUse(Equatable, TrivialRegisterPassable):
    """Says which rules a kernel is compiled with."""

    var window: Bool
    """Whether old tokens go out of sight; else all are seen."""

    var sinks: Bool
    """Whether every head has a logit that takes weight and adds no value."""

    var softcap: Bool
    """Whether scores are bounded."""


struct AttentionRules[in_use: RulesInUse](
    DevicePassable, TrivialRegisterPassable
):
    """Says what a query sees, and how its scores are formed.

    A query at position `p` sees the positions `[window_start(p), p]` and the
    first `sink_tokens` ones: `num_seen(p)` positions in all.

    Parameters:
        in_use: The rules that there are; the values of the others mean nothing.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var scale: Float32
    """What the products of queries and keys are multiplied by."""

    var window: Int64
    """The tokens that a query sees, its own included."""

    var sink_tokens: Int64
    """The first tokens, which are seen from behind the window too."""

    var softcap: Float32
    """The bound of a score."""

    var sinks: Pointer[Float32, ImmUntrackedOrigin]
    """The logit of each query head, as scores are: float32 `[num_q_heads]`."""

    def __init__(
        out self,
        scale: Float32,
        *,
        window: Int,
        sink_tokens: Int,
        softcap: Float32,
        sinks: Pointer[Float32, ImmUntrackedOrigin],
    ):
        """Collects the values of the rules.

        Args:
            scale: What the products of queries and keys are multiplied by.
            window: The tokens that a query sees, its own included.
            sink_tokens: The first tokens, which are always seen.
            softcap: The bound of a score.
            sinks: The logit of each query head, `[num_q_heads]`.
        """
        self.scale = scale
        self.window = Int64(window)
        self.sink_tokens = Int64(sink_tokens)
        self.softcap = softcap
        self.sinks = sinks

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "AttentionRules"

    @always_inline
    def num_sink_tokens(self) -> Int:
        """Returns how many first tokens are seen from everywhere.

        Returns:
            The tokens; 0 without a window, which hides none.
        """
        comptime if Self.in_use.window:
            return Int(self.sink_tokens)
        return 0

    @always_inline
    def window_start(self, position: Int) -> Int:
        """Returns the first position of a query's window.

        Args:
            position: The query's position.

        Returns:
            The position; 0 without a window.
        """
        comptime if Self.in_use.window:
            return max(0, position + 1 - Int(self.window))
        return 0

    @always_inline
    def num_hidden(self, position: Int) -> Int:
        """Returns how many tokens lie between the sink tokens and the window.

        Args:
            position: The query's position.

        Returns:
            The tokens that the query does not see.
        """
        return max(0, self.window_start(position) - self.num_sink_tokens())

    @always_inline
    def num_seen(self, position: Int) -> Int:
        """Returns how many tokens a query sees.

        Args:
            position: The query's position.

        Returns:
            The tokens, at least one: its own.
        """
        return position + 1 - self.num_hidden(position)

    @always_inline
    def seen(self, index: Int, *, num_hidden: Int) -> Int:
        """Returns the position of the seen token of an index.

        Args:
            index: Counts the tokens that a query sees, in `[0, num_seen)`.
            num_hidden: What `num_hidden` gave for the query.

        Returns:
            The token's position.
        """
        comptime if Self.in_use.window:
            if index >= self.num_sink_tokens():
                return index + num_hidden
        return index

    @always_inline
    def capped[
        width: SIMDLength, //
    ](self, score: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
        """Bounds scores that are scaled already.

        Parameters:
            width: How many scores.

        Args:
            score: The scores.

        Returns:
            `softcap * tanh(score / softcap)`; the scores without a bound.
        """
        comptime if Self.in_use.softcap:
            return self.softcap * precise_tanh(score / self.softcap)
        return score

    @always_inline
    def first_largest(self, head: Int) -> Float32:
        """Returns the largest score before any key is scored.

        Args:
            head: The query head.

        Returns:
            The head's sink; without sinks, minus infinity.
        """
        comptime if Self.in_use.sinks:
            return self.sinks[unsafe_offset=head]
        return neg_inf[DType.float32]()

    @always_inline
    def first_weight(self) -> Float32:
        """Returns the sum of weights before any key is scored.

        Returns:
            The weight of the sink, relative to `first_largest`, or 0.
        """
        comptime if Self.in_use.sinks:
            return 1
        return 0


@always_inline
def precise_tanh[
    width: SIMDLength, //
](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Returns the hyperbolic tangent to a few units in the last place.

    A GPU's own instruction errs by 2**-11, too much for a score.

    Parameters:
        width: How many numbers.

    Args:
        x: The numbers.

    Returns:
        Their hyperbolic tangents.
    """
    comptime Numbers = SIMD[DType.float32, width]
    var size = min(abs(x), Numbers(10))
    var growth = exp(2 * size)
    var far = 1 - 2 / (growth + 1)
    # Near zero the difference cancels; the series does not.
    var square = x * x
    var series = square.fma(Numbers(-17.0 / 315.0), Numbers(2.0 / 15.0))
    series = square.fma(series, Numbers(-1.0 / 3.0))
    var near = (square * x).fma(series, x)
    return size.lt(0.2).select(near, x.lt(0).select(-far, far))
