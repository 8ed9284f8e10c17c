"""Atomic words in shared memory for numba: numba's plain loads are hoisted out of loops, which tears rows.

Every function takes a one-dimensional u64 array (a view of a mapped file, read-only for loads) and an index.

The writer makes a row's word odd, writes the row, and makes the word even; a reader reads the word, the row and the
word again, and keeps the row only where both were equal and even (a sequence lock; Boehm 2012, "Can seqlocks get
along with programming language memory models?": the fences below are the paper's).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


def _load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
    """The word at `index`; nothing that follows is read before it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature, arguments), "acquire", 8, typ=ir.IntType(64))

    return types.uint64(array, types.intp), codegen


def _store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Writes the word at `index` after everything that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _place(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), codegen


def _fence_acquire(typing_context: Any) -> Any:
    """What was read before is read before anything that follows."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), codegen


def _fence_release(typing_context: Any) -> Any:
    """What was written before is written before anything that follows."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("release")
        return context.get_dummy_value()

    return types.void(), codegen


# Untyped on purpose: numba supplies the first argument, and turns the rest into machine words.
load_acquire: Any = intrinsic(_load_acquire)
store_release: Any = intrinsic(_store_release)
fence_acquire: Any = intrinsic(_fence_acquire)
fence_release: Any = intrinsic(_fence_release)


@njit(cache=True, inline="always")
def write_begin(words, at):  # type: ignore[no-untyped-def]
    """Makes the word odd before anything of the row is written."""
    store_release(words, at, words[at] | np.uint64(1))
    fence_release()


@njit(cache=True, inline="always")
def write_end(words, at):  # type: ignore[no-untyped-def]
    """Makes the word even, and another than before, after all of the row was written."""
    store_release(words, at, (words[at] | np.uint64(1)) + np.uint64(1))


@njit(cache=True, inline="always")
def read_again(words, at):  # type: ignore[no-untyped-def]
    """The word once more, after all of the row was read."""
    fence_acquire()
    return load_acquire(words, at)


@njit(cache=True)
def load(words, at):  # type: ignore[no-untyped-def]
    """The word at `at`, for Python."""
    return load_acquire(words, at)


@njit(cache=True)
def store(words, at, value):  # type: ignore[no-untyped-def]
    """Writes the word at `at`, for Python."""
    store_release(words, at, np.uint64(value))
