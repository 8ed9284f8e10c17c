"""How threads share a batch without the interpreter: helpers wait in machine code, and take pieces by an atomic count.

A batch is a function's address and that of its arguments on its caller's stack. Whoever is free takes the next piece.
The caller opens the batch and works itself; helpers that come join while there are pieces; the caller closes it and
waits for those that joined, hence at most for one piece each: a helper that gets no core holds nobody up. It joins by
one word that says whether the batch is open and counts who is in it, so that no helper comes once the caller has gone.

A helper that waits for its next batch stays awake for a while: to wake it costs 50 us and more, the time of a thousand
keys, and batches come in rows. Neither waiting nor starting takes the interpreter's lock: taking it would put one of
two threads that are quick to sleep.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from online_learning.table.atomics import atomic_add, atomic_load, atomic_swap, changes_within, sleep_while, wake
from online_learning.table.compiled import inlined, kernel, kernels_of

# Words of what caller and helpers share, i64: each that is written by several threads has a cache line for itself.
STATE, SLEEPING, WAITING, NEXT, FUNCTION, FRAME, ITEMS, LEAST, SHARES, FAILED = 0, 8, 16, 24, 32, 33, 34, 35, 36, 37
WORDS = 40
# The state: how many helpers are in the batch, whether more may join, whether they are to end, the batch's number.
JOINED, OPEN, ENDED, NUMBER = 0xFFF, 0x1000, 0x2000, 0x4000

SHARES_PER_THREAD = 2
"""A piece is one such share of what is left of a batch."""
AWAKE_NS = 50_000
"""How long a helper waits awake: what waking it would cost, and longer than it takes to come from one batch to the
next. Not longer: torch's threads may want the core, which one spinning helper would hold up at every operation."""
PATIENCE_NS = 20_000
"""How long a caller waits awake for a helper's last piece, before it leaves it its core: a piece takes some 20 us."""


def _call_at(typing_context: Any, function: Any, frame: Any, begin: Any, end: Any) -> Any:
    """Call the function at an address with arguments at another, for items [begin, end); 0, or its error."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word, word]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


call_at: Any = intrinsic(_call_at)


def _frame_of(typing_context: Any, body: Any, arguments: Any) -> Any:
    """(address of a function for `call_at`, address of its arguments) for `body(*arguments, begin, end)`.

    The arguments live on the stack of the function that this is compiled into.
    """
    inner = body.get_call_type(typing_context, (*arguments.types, types.int64, types.int64), {})

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        frame = cgutils.alloca_once_value(builder, values[1])  # type: ignore[no-untyped-call]
        piece = ir.Function(builder.module, ir.FunctionType(word, [word, word, word]), "piece")
        piece.linkage = "internal"
        inside = ir.IRBuilder(piece.append_basic_block())
        given = inside.load(inside.inttoptr(piece.args[0], frame.type))
        overload = body.dispatcher.overloads[inner.args]
        context.add_linking_libs(context.get_function(body, inner).libs)
        unpacked = cgutils.unpack_tuple(inside, given)  # type: ignore[no-untyped-call]
        status, _ = context.call_internal_no_propagate(inside, overload.fndesc, inner, [*unpacked, *piece.args[1:]])
        inside.ret(inside.zext(status.is_error, word))
        return context.make_tuple(
            builder, signature.return_type, [builder.ptrtoint(piece, word), builder.ptrtoint(frame, word)]
        )

    pair: Any = types.Tuple((types.int64, types.int64))  # type: ignore[no-untyped-call]
    return pair(body, arguments), codegen


frame_of: Any = intrinsic(_frame_of)


@inlined
def _work(words):  # type: ignore[no-untyped-def]
    """Take pieces of the batch until there are none.

    The last are small, so that all are through at nearly the same time (guided self-scheduling: Polychronopoulos, Kuck
    1987).
    """
    function, frame, items = words[FUNCTION], words[FRAME], words[ITEMS]
    least, shares = words[LEAST], words[SHARES]
    begin = atomic_load(words, NEXT)
    while begin < items:
        end = min(items, begin + max(least, (items - begin) // shares))
        if atomic_swap(words, NEXT, begin, end) and call_at(function, frame, begin, end) != 0:
            words[FAILED] = 1
        begin = atomic_load(words, NEXT)


@kernel
def help_out(words):  # type: ignore[no-untyped-def]
    """A helper's life, until the state says that it has ended."""
    seen = np.int64(-1)
    while True:
        state = atomic_load(words, STATE)
        if state & ENDED:
            return
        if state & OPEN and state // NUMBER != seen:
            if atomic_swap(words, STATE, state, state + 1):
                seen = state // NUMBER
                _work(words)
                atomic_add(words, STATE, -1)
                if atomic_load(words, WAITING):
                    wake(words, STATE, JOINED)
        elif not changes_within(words, STATE, state, AWAKE_NS):
            atomic_add(words, SLEEPING, 1)
            sleep_while(words, STATE, state)
            atomic_add(words, SLEEPING, -1)


@kernel
def end_helpers(words):  # type: ignore[no-untyped-def]
    """Let the helpers end."""
    atomic_add(words, STATE, ENDED)
    wake(words, STATE, JOINED)


@kernel
def run_shared(words, function, frame, items, least, threads):  # type: ignore[no-untyped-def]
    """Open a batch, work on it, close it; whether all pieces went well."""
    words[FUNCTION], words[FRAME], words[ITEMS], words[LEAST] = function, frame, items, least
    words[SHARES] = SHARES_PER_THREAD * threads
    words[NEXT] = words[FAILED] = 0
    atomic_add(words, STATE, NUMBER + OPEN)
    if atomic_load(words, SLEEPING):
        wake(words, STATE, min(threads, (items + least - 1) // least) - 1)
    _work(words)
    state = atomic_add(words, STATE, -OPEN) - OPEN
    while state & JOINED:
        if not changes_within(words, STATE, state, PATIENCE_NS):
            atomic_add(words, WAITING, 1)
            sleep_while(words, STATE, state)
            atomic_add(words, WAITING, -1)
        state = atomic_load(words, STATE)
    return words[FAILED] == 0


def _shared(words, items, least, threads, *arguments):  # type: ignore[no-untyped-def]
    function, frame = frame_of(_body, arguments)  # type: ignore[name-defined]  # noqa: F821
    return run_shared(words, function, frame, items, least, threads)


@cache
def shared(body: Callable[..., Any]) -> Any:
    """The kernel `(words, items, least, threads, *arguments)` that runs `body(*arguments, begin, end)` by threads.

    It says whether all pieces went well. `least`: items of the smallest piece.
    """
    plain = body.py_func  # type: ignore[attr-defined]
    code = _shared.__code__.replace(
        co_filename=plain.__code__.co_filename, co_firstlineno=plain.__code__.co_firstlineno
    )
    # A function of its own, and not a closure: what numba keeps of a closure, no later process finds.
    function = FunctionType(code, {**globals(), "_body": body}, f"shared_{plain.__name__}")
    function.__qualname__, function.__module__ = function.__name__, plain.__module__
    return kernels_of(Path(code.co_filename).parent)(function)
