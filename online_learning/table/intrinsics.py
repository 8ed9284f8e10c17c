"""What numba lacks and random access to gigabytes needs: software prefetches, whole cache lines, 64-bit mixing."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from online_learning.table.compiled import inlined

# Where llvm.prefetch is to bring a line: 3 is all caches, 2 all but the first.
_NEAR, _FAR = 3, 2


def _prefetch(builder: Any, address: Any, locality: int) -> None:
    """Emit one prefetch: to read, of this locality, data and not code."""
    number = ir.IntType(32)
    prototype = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
    function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, prototype, "llvm.prefetch.p0"
    )
    builder.call(function, [builder.bitcast(address, cgutils.voidptr_t), number(0), number(locality), number(1)])


def element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """The address of a flat array's element."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _prefetcher(locality: int) -> Any:
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _prefetch(builder, element(context, builder, signature.args[0], *arguments), locality)
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    return intrinsic(prefetch)


prefetch: Any = _prefetcher(_NEAR)
"""`prefetch(array, index)`: ask for the cache line of a C-contiguous array's element (flat), without waiting for it.

A batch that asks for its next lines before it reads the first hides most of the memory's latency, which is what a hash
table's speed is made of. An address outside the array is harmless: a prefetch cannot fault.
"""

prefetch_far: Any = _prefetcher(_FAR)
"""The same, into the second-level cache only, which can have three times as many requests in flight."""

# What handles whole rows is made here and not of the above in numba: to hand an array to an inlined function costs
# numba two atomic reference counts, a quarter of the time of copying a row.

FLOATS_PER_LINE = 16
STRAIGHT_LINES = (1, 2, 4)
"""Rows of so many full lines go without a loop: the test that picks the code is always guessed right, a loop costs."""


def by_length(builder: Any, length: Any, lines: Callable[[int], None], general: Callable[[], None]) -> None:
    """Emit `lines(n)` for rows of n full lines if that is one of STRAIGHT_LINES, else what goes for all rows."""
    done, other = builder.append_basic_block("done"), builder.append_basic_block("other")
    switch = builder.switch(length, other)
    for count in STRAIGHT_LINES:
        block = builder.append_basic_block(f"lines{count}")
        switch.add_case(length.type(count * FLOATS_PER_LINE), block)
        builder.position_at_end(block)
        lines(count)
        builder.branch(done)
    builder.position_at_end(other)
    general()
    builder.branch(done)
    builder.position_at_end(done)


def _prefetch_row(typing_context: Any, array: Any, index: Any, length: Any) -> Any:
    """prefetch_far for all lines of the f32 elements [index, index + length)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, length = arguments
        first = element(context, builder, signature.args[0], array, index)

        def line(number: Any) -> None:
            step = builder.mul(number, length.type(FLOATS_PER_LINE))
            _prefetch(builder, builder.gep(first, [step]), _FAR)

        def lines(count: int) -> None:
            for number in range(count):
                line(length.type(number))

        def general() -> None:
            count = builder.ashr(builder.add(length, length.type(FLOATS_PER_LINE - 1)), length.type(4))
            with cgutils.for_range(builder, count) as loop:
                line(loop.index)

        by_length(builder, length, lines, general)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), codegen


prefetch_row: Any = intrinsic(_prefetch_row)


def _copy_row(typing_context: Any, target: Any, into: Any, source: Any, start: Any, length: Any) -> Any:
    """target[into:into + length] = source[start:start + length] of flat f32 arrays that do not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, into, source, start, length = arguments
        out = element(context, builder, signature.args[0], target, into)
        values = element(context, builder, signature.args[2], source, start)
        vector = ir.VectorType(ir.FloatType(), FLOATS_PER_LINE).as_pointer()

        def line(place: Any) -> None:
            loaded = builder.load(builder.bitcast(builder.gep(values, [place]), vector))
            loaded.align = 4
            stored = builder.store(loaded, builder.bitcast(builder.gep(out, [place]), vector))
            stored.align = 4

        def lines(count: int) -> None:
            for number in range(count):
                line(length.type(number * FLOATS_PER_LINE))

        def general() -> None:
            with cgutils.for_range(builder, builder.ashr(length, length.type(4))) as loop:
                line(builder.mul(loop.index, length.type(FLOATS_PER_LINE)))
            rest = builder.and_(length, length.type(FLOATS_PER_LINE - 1))
            with builder.if_then(builder.icmp_signed("!=", rest, rest.type(0))):
                long = builder.icmp_signed(">=", length, length.type(FLOATS_PER_LINE))
                with builder.if_else(long) as (then, otherwise):
                    with then:
                        # With some of what has been copied already: quicker than single floats.
                        line(builder.sub(length, length.type(FLOATS_PER_LINE)))
                    with otherwise, cgutils.for_range(builder, length) as loop:
                        builder.store(builder.load(builder.gep(values, [loop.index])), builder.gep(out, [loop.index]))

        by_length(builder, length, lines, general)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), codegen


copy_row: Any = intrinsic(_copy_row)


def _match_line(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Bit i of the result: whether element index + i of a u64 array equals `value`, for i < 8.

    `index` is a multiple of 8 and the array begins at a cache line.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        structure = context.make_array(signature.args[0])(context, builder, arguments[0])
        line = ir.VectorType(ir.IntType(64), 8)
        address = builder.bitcast(builder.gep(structure.data, [arguments[1]]), line.as_pointer())
        words = builder.load(address)
        words.align = 64
        undefined = ir.Constant(line, ir.Undefined)
        single = builder.insert_element(undefined, arguments[2], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        equal = builder.icmp_unsigned("==", words, builder.shuffle_vector(single, undefined, zeros))
        return builder.zext(builder.bitcast(equal, ir.IntType(8)), ir.IntType(64))

    return types.uint64(array, types.intp, types.uint64), codegen


match_line: Any = intrinsic(_match_line)


def _first_bit(typing_context: Any, mask: Any) -> Any:
    """The number of the lowest bit that is set in a u64; one must be."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


first_bit: Any = intrinsic(_first_bit)


@inlined
def mix64(value: np.uint64) -> np.uint64:
    """A bijection of 64 bits in which every input bit moves every output bit (splitmix64's finaliser).

    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with Stafford's variant 13.
    """
    mixed = np.uint64(value)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
