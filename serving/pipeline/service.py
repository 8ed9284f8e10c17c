"""The pipeline with its clock, its randomness and its connections: what a server process holds."""

import logging
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from msgspec import Struct

from features.online import StoreAway, UserFeatures, UserRow
from serving.answer import encode_versions
from serving.impressions import ImpressionLog
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.request import BadRequest, parse
from serving.pipeline.warm_up import warm_up
from serving.settings import ServingSettings
from serving.shared.mirror import Mirror

log = logging.getLogger(__name__)

# Less than Triton waits for its models when it is told to stop.
_FLUSH_S = 2.0


class _Resolved(Struct, frozen=True):
    """The part of the resolved settings that is read here."""

    serving: ServingSettings


class WireAnswer(Struct, frozen=True):
    """An answer as it is sent: `versions` is JSON."""

    items: list[str]
    scores: list[float]
    request_id: str
    versions: bytes


class Service:
    """Answers requests for one thread, and sends impressions in the background."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings.pipeline
        self._users = UserFeatures(settings.features)
        self._impressions = ImpressionLog(settings.kafka)
        self._mirror = Mirror(Path(settings.shm_dir))
        self._pipeline = Pipeline(settings, self._mirror, self._read_user, np.random.default_rng())
        self._counts: Counter[str] = Counter()

    @classmethod
    def open(cls, settings_file: Path) -> Self:
        """Opens everything that the settings name, and answers before it is asked, so that no request waits for it."""
        settings = msgspec.json.decode(settings_file.read_bytes(), type=_Resolved).serving
        warm_up(settings)
        service = cls(settings)
        service.recommend(b"warm-up", 1, b'{"dry_run": true}')
        return service

    def recommend(self, user: bytes, n: int, context: bytes) -> WireAnswer:
        """Answers one request; raises BadRequest."""
        self._counts["requests"] += 1
        try:
            request = parse(
                user,
                n,
                context,
                max_items=self._settings.max_items,
                request_id=uuid.uuid4().hex,
                ts=time.time_ns() // 1_000_000,
            )
        except BadRequest:
            self._counts["refused"] += 1
            raise
        answer = self._pipeline.answer(request)
        self._counts["fallbacks"] += bool(answer.versions.fallback)
        if answer.impression is not None and not request.context.dry_run:
            self._impressions.add(answer.impression)
        return WireAnswer(answer.items, answer.scores, request.request_id, encode_versions(answer.versions))

    def counts(self) -> dict[str, int]:
        """What has happened since the start, by name; only ever growing."""
        impressions = self._impressions.counts
        return {
            **self._counts,
            "impressions": impressions.taken,
            "impressions_acknowledged": impressions.acknowledged,
            "impressions_dropped": impressions.dropped,
        }

    def close(self) -> None:
        """Sends what waits, for up to two seconds, then closes."""
        self._impressions.close(_FLUSH_S)

    def _read_user(self, user: str) -> UserRow | None:
        try:
            return self._users.read(user)
        except StoreAway:
            # An answer without what is known of the user is better than none.
            pass
        except Exception:
            # So it is where one user's row cannot be read; but that is somebody's mistake.
            log.exception("what is known of user %r cannot be read", user)
        self._counts["users_missed"] += 1
        return None
