"""What numba lacks and random access to gigabytes needs: a software prefetch, and 64-bit mixing."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from online_learning.table.compiled import inlined


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of a C-contiguous array's element `index` (flat), without waiting for it.

    A batch that asks for its next 32 lines before it reads the first hides most of the memory's latency, which is
    what a hash table's speed is made of. An address outside the array is harmless: a prefetch cannot fault.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        structure = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(structure.data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        prototype = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, prototype, "llvm.prefetch.p0"
        )
        # read, keep in all cache levels, data cache
        builder.call(function, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


prefetch: Any = intrinsic(_prefetch)


@inlined
def mix64(value: np.uint64) -> np.uint64:
    """A bijection of 64 bits in which every input bit moves every output bit (splitmix64's finaliser).

    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with Stafford's variant 13.
    """
    mixed = np.uint64(value)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
