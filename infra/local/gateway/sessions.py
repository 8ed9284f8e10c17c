"""HTTP sessions: a session_id keeps a handle once a statement left something behind in it."""

import threading
import time
from collections.abc import Callable

from infra.local.gateway.engine import Answer, Engine, Request, Session
from infra.local.gateway.errors import SESSION_IS_LOCKED, refused
from infra.local.gateway.statement import Statement

# ClickHouse's default_session_timeout.
TIMEOUT_S = 60.0


class Sessions:
    """Handles by session id.

    Clients such as clickhouse_connect name a session in every request and hardly ever use it, so a handle is
    only kept from the first SET, USE or temporary table on.
    """

    def __init__(self, engine: Engine, now_s: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._now_s = now_s
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Session, float]] = {}

    def run(self, request: Request, session_id: str | None, timeout_s: float = TIMEOUT_S) -> Answer:
        """Run a request in its session, or on a handle of its own where there is none.

        Raises:
            GatewayError: SESSION_IS_LOCKED when the session runs another statement, as on a server.
        """
        self._expire()
        session = self._find(session_id, request.statement, timeout_s)
        if session is None:
            return self._engine.run(request)
        if session.lock.locked():
            message = f"Session {session_id} is locked by a concurrent client"
            raise refused(SESSION_IS_LOCKED, "SESSION_IS_LOCKED", message)
        return self._engine.run_in(session, request)

    def close(self) -> None:
        """Close all handles."""
        with self._lock:
            for session, _ in self._open.values():
                self._engine.close_session(session)
            self._open.clear()

    def _find(self, session_id: str | None, statement: Statement, timeout_s: float) -> Session | None:
        if not session_id:
            return None
        with self._lock:
            kept = self._open.get(session_id)
            if kept is None and not _leaves_state(statement):
                return None
            session = kept[0] if kept else self._engine.open_session()
            self._open[session_id] = (session, self._now_s() + timeout_s)
            return session

    def _expire(self) -> None:
        now_s = self._now_s()
        with self._lock:
            over = [name for name, (session, at_s) in self._open.items() if at_s < now_s and not session.lock.locked()]
            for name in over:
                self._engine.close_session(self._open.pop(name)[0])


def _leaves_state(statement: Statement) -> bool:
    words = [token.text.upper() for token in statement.tokens[:4]]
    return statement.kind in ("SET", "USE") or (statement.kind == "CREATE" and "TEMPORARY" in words)
