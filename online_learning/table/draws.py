"""First embeddings, drawn a cache line at a time: column j of a row is a hash of (row's stream, j) and of nothing else.

In the instructions that LLVM is given and not in numba: from a loop of numba LLVM makes vectors of half the width, and
no stores that go past the caches.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from online_learning.table.intrinsics import FLOATS_PER_LINE, by_length, element

_WORD = ir.IntType(32)
_WORDS = ir.VectorType(_WORD, FLOATS_PER_LINE)
_FLOATS = ir.VectorType(ir.FloatType(), FLOATS_PER_LINE)
_STEP = 0x9E3779B9
"""Between what two columns hash: 2^32 over the golden ratio."""


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of one value."""
    undefined = ir.Constant(kind, ir.Undefined)
    single = builder.insert_element(undefined, value, _WORD(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(_WORDS, [0] * FLOATS_PER_LINE))


def _all(value: int) -> Any:
    return ir.Constant(_WORDS, [value] * FLOATS_PER_LINE)


def _mixed(builder: Any, value: Any, more: Any) -> Any:
    """32 bits in which every bit of both inputs moves every bit: vector instructions multiply these three times as fast
    as 64 bits.

    The rounds of Wellons 2018, "Prospecting for hash functions", with the second input added between them.
    """
    mixed = builder.mul(builder.xor(value, builder.lshr(value, _all(16))), _all(0x7FEB352D))
    mixed = builder.add(mixed, more)
    mixed = builder.mul(builder.xor(mixed, builder.lshr(mixed, _all(15))), _all(0x846CA68B))
    return builder.xor(mixed, builder.lshr(mixed, _all(16)))


def _uniform_row(
    typing_context: Any, values: Any, place: Any, length: Any, zeros: Any, low: Any, high: Any, scale: Any
) -> Any:
    """values[place:place + length] = `zeros` zeros, then draws from [-scale, scale), of a flat f32 array.

    The array begins at a cache line, and `place` is a multiple of `length`. `low`, `high`: the row's stream. Rows of
    whole lines go past the caches: what a new row overwrites need not be read, which took longer than to draw it. Other
    threads see them behind this one's next atomic operation, as with which a shared batch ends.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place, length, zeros, low, high, scale = arguments
        out = element(context, builder, signature.args[0], values, place)
        more, scales = _spread(builder, high, _WORDS), _spread(builder, scale, _FLOATS)
        units = ir.Constant(_FLOATS, [2.0**-23] * FLOATS_PER_LINE)
        lanes = ir.Constant(_WORDS, list(range(FLOATS_PER_LINE)))
        steps = ir.Constant(_WORDS, [(lane + 1) * _STEP & 0xFFFFFFFF for lane in range(FLOATS_PER_LINE)])

        def drawn(column: Any) -> tuple[Any, Any]:
            """(the place of 16 columns from this one on, their values)."""
            number = builder.trunc(column, _WORD)
            first = builder.add(low, builder.mul(number, _WORD(_STEP)))
            bits = _mixed(builder, builder.add(_spread(builder, first, _WORDS), steps), more)
            # 24 bits with their sign: every f32 in [-1, 1) of their grid is equally likely.
            signed = builder.ashr(builder.xor(bits, _all(0x80000000)), _all(8))
            unit = builder.fmul(builder.sitofp(signed, _FLOATS), units)
            columns = builder.add(_spread(builder, number, _WORDS), lanes)
            zero = builder.icmp_signed("<", columns, _spread(builder, builder.trunc(zeros, _WORD), _WORDS))
            row = builder.select(zero, ir.Constant(_FLOATS, None), builder.fmul(unit, scales))
            return builder.bitcast(builder.gep(out, [column]), _FLOATS.as_pointer()), row

        def lines(count: int) -> None:
            for number in range(count):
                pointer, row = drawn(length.type(number * FLOATS_PER_LINE))
                stored = builder.store(row, pointer, align=4 * FLOATS_PER_LINE)
                stored.set_metadata("nontemporal", builder.module.add_metadata([_WORD(1)]))

        def general() -> None:
            lines = builder.ashr(builder.add(length, length.type(FLOATS_PER_LINE - 1)), length.type(4))
            with cgutils.for_range(builder, lines) as loop:
                column = builder.mul(loop.index, length.type(FLOATS_PER_LINE))
                pointer, row = drawn(column)
                left = builder.trunc(builder.sub(length, column), _WORD)
                there = builder.icmp_signed("<", lanes, _spread(builder, left, _WORDS))
                arguments = [row, pointer, _WORD(4), there]
                prototype = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
                name = f"llvm.masked.store.v{FLOATS_PER_LINE}f32.p0"
                builder.call(cgutils.get_or_insert_function(builder.module, prototype, name), arguments)  # type: ignore[no-untyped-call]

        by_length(builder, length, lines, general)
        return context.get_dummy_value()

    signature = types.void(values, types.intp, types.intp, types.intp, types.uint32, types.uint32, types.float32)
    return signature, codegen


uniform_row: Any = intrinsic(_uniform_row)
