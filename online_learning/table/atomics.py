"""What numba lacks for threads that meet in memory: atomic words, waiting on one, and calling a function by address.

All on elements of flat i64 arrays, in sequentially consistent order: they are few, and next to a batch cost nothing.
"""

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from online_learning.table.compiled import inlined, kernel

_ORDER = "seq_cst"
_WORD = ir.IntType(64)
_X86 = platform.machine() == "x86_64"


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The address of element `arguments[1]` of the array `arguments[0]`."""
    return builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])


def _atomic_load(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index] as it is now."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature, arguments), _ORDER, 8)

    return types.int64(array, types.intp), codegen


atomic_load: Any = intrinsic(_atomic_load)


def _atomic_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value; what was there before."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(context, builder, signature, arguments), arguments[2], _ORDER)

    return types.int64(array, types.intp, types.int64), codegen


atomic_add: Any = intrinsic(_atomic_add)


def _atomic_swap(typing_context: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
    """array[index] = value if it is `expected`; whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _place(context, builder, signature, arguments)
        swapped = builder.cmpxchg(address, arguments[2], arguments[3], _ORDER, _ORDER)
        return builder.zext(builder.extract_value(swapped, 1), _WORD)

    return types.int64(array, types.intp, types.int64, types.int64), codegen


atomic_swap: Any = intrinsic(_atomic_swap)


def _touch(typing_context: Any, address: Any) -> Any:
    """Write to the word at an address (a multiple of 8) what is in it, whoever else writes to it now.

    Swaps 0 for 0: adding 0 would be compiled to a load.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(_WORD, 0)
        builder.cmpxchg(builder.inttoptr(arguments[0], _WORD.as_pointer()), zero, zero, "monotonic", "monotonic")
        return context.get_dummy_value()

    return types.void(types.intp), codegen


touch: Any = intrinsic(_touch)


def _pause(typing_context: Any) -> Any:
    """Tell the core that it is in a loop that waits: some 50 ns in which it leaves its units to its other thread."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, *hint = ("llvm.x86.sse2.pause",) if _X86 else ("llvm.aarch64.hint", ir.Constant(ir.IntType(32), 1))
        prototype = ir.FunctionType(ir.VoidType(), [value.type for value in hint])
        function = cgutils.get_or_insert_function(builder.module, prototype, name)  # type: ignore[no-untyped-call]
        builder.call(function, hint)
        return context.get_dummy_value()

    return types.void(), codegen


pause: Any = intrinsic(_pause)

_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))
_syscall: Any = types.ExternalFunction(
    "syscall", types.intp(types.intp, types.uintp, types.intp, types.intp, types.uintp)
)
_MONOTONIC = 1
_FUTEX = 202 if _X86 else 98
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129
_LOOKS = 16
"""Looks at a word between two at the clock: some 1 us."""


@inlined
def _now_ns(clock):  # type: ignore[no-untyped-def]
    """The monotonic clock in ns; `clock` i64 [2] is scratch."""
    _clock_gettime(_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@kernel
def changes_within(words, index, seen, wait_ns):  # type: ignore[no-untyped-def]
    """Whether words[index] is or becomes another than `seen` within a time, in which this thread stays awake."""
    clock = np.empty(2, np.int64)
    deadline = _now_ns(clock) + wait_ns
    while True:
        for _ in range(_LOOKS):
            if atomic_load(words, index) != seen:
                return True
            pause()
        if _now_ns(clock) > deadline:
            return False


@inlined
def sleep_while(words, index, seen):  # type: ignore[no-untyped-def]
    """Sleep until woken, at once if words[index] is not `seen` (compared in 32 bits); may return for no reason."""
    _syscall(
        _FUTEX, np.uint64(words.ctypes.data) + np.uint64(8 * index), _WAIT_PRIVATE, seen & 0xFFFFFFFF, np.uint64(0)
    )


@inlined
def wake(words, index, threads):  # type: ignore[no-untyped-def]
    """Wake so many of those that sleep on words[index]."""
    word = np.uint64(words.ctypes.data) + np.uint64(8 * index)
    _syscall(_FUTEX, word, _WAKE_PRIVATE, threads, np.uint64(0))
