"""What numba lacks and random access to gigabytes needs: software prefetches, whole cache lines, 64-bit mixing."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from online_learning.table.compiled import inlined

# Where llvm.prefetch is to bring a line: 3 is all caches, 2 all but the first.
_NEAR, _FAR = 3, 2


def _prefetcher(locality: int) -> Any:
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            structure = context.make_array(signature.args[0])(context, builder, arguments[0])
            address = builder.bitcast(builder.gep(structure.data, [arguments[1]]), cgutils.voidptr_t)
            number = ir.IntType(32)
            prototype = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
            function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
                builder.module, prototype, "llvm.prefetch.p0"
            )
            # to read, of this locality, data and not code
            builder.call(function, [address, number(0), number(locality), number(1)])
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

FLOATS_PER_LINE = 16


def _copy_line(typing_context: Any, target: Any, target_index: Any, source: Any, source_index: Any) -> Any:
    """target[i:i + 16] = source[j:j + 16] of flat f32 arrays, without the loop that numba would test for overlaps."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        out_of = context.make_array(signature.args[2])(context, builder, arguments[2])
        line = ir.VectorType(ir.FloatType(), FLOATS_PER_LINE).as_pointer()
        value = builder.load(builder.bitcast(builder.gep(out_of.data, [arguments[3]]), line))
        value.align = 4
        store = builder.store(value, builder.bitcast(builder.gep(into.data, [arguments[1]]), line))
        store.align = 4
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


copy_line: Any = intrinsic(_copy_line)


@inlined
def mix64(value: np.uint64) -> np.uint64:
    """A bijection of 64 bits in which every input bit moves every output bit (splitmix64's finaliser).

    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with Stafford's variant 13.
    """
    mixed = np.uint64(value)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
