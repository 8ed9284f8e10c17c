"""A recommendation from top to bottom: assign, hydrate, filter, retrieve, rank, explore, answer."""

from collections.abc import Callable

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from features.online import UserRow
from serving import policies
from serving.answer import Versions
from serving.pipeline import filters, ranking, sources
from serving.pipeline.assignment import Plan, plan_for
from serving.pipeline.exploration import Draw, draw_slots, pool_of
from serving.pipeline.model import OnlineModel, UserSide
from serving.pipeline.orders import Orders
from serving.pipeline.request import Request
from serving.settings import ServingSettings
from serving.shared.head import Lineage
from serving.shared.mirror import Mirror
from streams.records import SCHEMA_VERSION, Candidate, Impression, ModelVersion, Shown

SPARSE = "sparse"
"""The name of the one table whose rows rank."""


class Answer(Struct, frozen=True):
    """Items in slot order with the scores that ranked them, and the record that explains them; None where empty."""

    items: list[str]
    scores: list[float]
    versions: Versions
    impression: Impression | None


class Ranked(Struct, frozen=True):
    """Candidates in rank order.

    slots int64[C]; scores f32[C]; stats f32[C, 6], the arm's item stats of now, and available_at int64[C] (ms), since
    when they can be read; cold bool[C], hardly shown yet; source uint8[C], which of `names` brought each.
    """

    slots: NDArray[np.int64]
    scores: NDArray[np.float32]
    stats: NDArray[np.float32]
    available_at: NDArray[np.int64]
    cold: NDArray[np.bool_]
    source: NDArray[np.uint8]
    names: tuple[str, ...]


class Pipeline:
    """Answers requests from the mirror; one instance per thread.

    `read_user` gives what is known of a user, or None; it must not raise. `rng` decides explorations.
    """

    def __init__(
        self,
        settings: ServingSettings,
        mirror: Mirror,
        read_user: Callable[[str], UserRow | None],
        rng: np.random.Generator,
    ) -> None:
        self._settings = settings.pipeline
        self._mirror = mirror
        self._read_user = read_user
        self._rng = rng
        self._model = OnlineModel(settings.learning, mirror, settings.pipeline.position)
        self._weights = self._rank_weights(settings)
        self._orders = Orders(mirror)

    def answer(self, request: Request) -> Answer:
        """At most `request.n` items; none where there is nothing that may be shown."""
        self._mirror.refresh()
        # Before anything is read from the tables: an answer may know more than it claims, never less.
        lineage = self._mirror.lineage()
        plan = plan_for(self._mirror.experiments(), request, model_missing=self._model.refresh())
        user = self._read_user(request.user)
        side = self._model.user(request, user) if plan.policy == policies.ONLINE else None
        allowed = self._filter(request)
        candidates, cold = self._retrieve(plan, request, side, allowed)
        ranked = self._rank(plan, request, side, candidates, cold)
        slots = self._explore(plan, request, ranked)
        return self._compose(request, plan, user, lineage, ranked, slots)

    # --- the stages ------------------------------------------------------------------------------------------------

    def _filter(self, request: Request) -> NDArray[np.bool_]:
        catalogue, context = self._mirror.catalogue, request.context
        allowed = catalogue.available
        if context.scene:
            allowed = allowed & (catalogue.scene_codes == catalogue.scene(context.scene))
        return filters.without(allowed, catalogue.index, context.exclude)

    def _retrieve(
        self, plan: Plan, request: Request, side: UserSide | None, allowed: NDArray[np.bool_]
    ) -> tuple[sources.Candidates, NDArray[np.int64]]:
        """The candidates, and which slots are hardly shown yet."""
        if plan.policy == policies.RANDOM:
            return sources.merge([(policies.RANDOM, np.flatnonzero(allowed))], len(allowed)), np.empty(0, np.int64)
        k, found = max(self._settings.retrieve, request.n), []
        if side is not None:
            query = self._model.query(side, self._task(request))
            found.append((sources.NEAREST, sources.highest(self._mirror.scores(query), allowed, k)))
        order = self._orders.of(plan.arm, request.ts)
        found.append((sources.POPULAR, sources.first_allowed(order.popular, allowed, k)))
        cold = sources.first_allowed(order.cold, allowed, self._settings.explore_pool)
        found.append((sources.COLD, cold))
        return sources.merge(found, len(allowed)), cold

    def _rank(
        self,
        plan: Plan,
        request: Request,
        side: UserSide | None,
        candidates: sources.Candidates,
        cold: NDArray[np.int64],
    ) -> Ranked:
        slots = candidates.slots
        stats, available_at = self._mirror.item_stats(slots, plan.arm, request.ts)
        if side is not None:
            items = self._mirror.catalogue.keys.take(slots)
            predictions = self._model.predict(side, items, stats)
            if self._weights is None:
                scores = predictions[:, self._task(request)]
            else:
                scores = ranking.weighted(predictions, self._weights, self._model.values)
        elif plan.policy == policies.POPULARITY:
            scores = ranking.popularity(stats)
        else:
            scores = np.zeros(len(slots), dtype=np.float32)
        order = ranking.order(scores)
        return Ranked(
            slots=slots[order],
            scores=scores[order],
            stats=stats[order],
            available_at=available_at[order],
            cold=sources.members(slots[order], cold, len(self._mirror.catalogue)),
            source=candidates.source[order],
            names=candidates.names,
        )

    def _explore(self, plan: Plan, request: Request, ranked: Ranked) -> list[Draw]:
        """What is shown: draws whose `rank` is the rank among all candidates."""
        settings = self._settings
        if plan.policy == policies.RANDOM:
            return draw_slots(len(ranked.slots), request.n, 1.0, self._rng)
        pool = pool_of(ranked.cold, request.n, settings.explore_pool)
        draws = draw_slots(len(pool), request.n, settings.explore, self._rng)
        return [replace(draw, rank=int(pool[draw.rank])) for draw in draws]

    def _compose(
        self, request: Request, plan: Plan, user: UserRow | None, lineage: Lineage, ranked: Ranked, slots: list[Draw]
    ) -> Answer:
        ids = self._mirror.catalogue.ids
        chosen = [draw.rank for draw in slots]
        model = ModelVersion(lineage.epoch, self._model.version, {SPARSE: lineage.sequence})
        shown = [
            Shown(
                item=ids[ranked.slots[draw.rank]],
                position=position,
                score=float(ranked.scores[draw.rank]),
                propensity=draw.propensity,
                source=ranked.names[ranked.source[draw.rank]],
                explored=draw.explored,
                features=_known(ranked.stats[draw.rank]),
                features_at=int(ranked.available_at[draw.rank]),
            )
            for position, draw in enumerate(slots)
        ]
        arms = [plan.assignment] if plan.assignment is not None else []
        impression = Impression(
            v=SCHEMA_VERSION,
            request_id=request.request_id,
            ts=request.ts,
            user=request.user,
            items=shown,
            session=request.context.session,
            scene=request.context.scene,
            context=request.features,
            arms=arms,
            policy=plan.policy,
            model=model,
            user_features=user.stats if user is not None else None,
            candidates=self._not_shown(ranked, chosen),
        )
        versions = Versions(
            epoch=model.epoch,
            dense=model.dense,
            sparse=model.sparse,
            learned=lineage.learned,
            arms={arm.experiment: arm.arm for arm in arms},
            policy=plan.policy,
            fallback=plan.fallback,
        )
        items, scores = [slot.item for slot in shown], [slot.score for slot in shown]
        return Answer(items, scores, versions, impression if shown else None)

    def _not_shown(self, ranked: Ranked, shown: list[int]) -> list[Candidate]:
        """A uniform sample of the candidates that were ranked and not shown."""
        rest = np.ones(len(ranked.slots), dtype=np.bool_)
        rest[shown] = False
        others = np.flatnonzero(rest)
        ids, count = self._mirror.catalogue.ids, min(self._settings.logged_candidates, len(others))
        sampled = self._rng.choice(others, count, replace=False).tolist()
        return [
            Candidate(ids[ranked.slots[k]], float(ranked.scores[k]), ranked.names[ranked.source[k]]) for k in sampled
        ]

    def _rank_weights(self, settings: ServingSettings) -> NDArray[np.float32] | None:
        """By column; None where one task alone ranks."""
        weights = np.zeros(len(settings.learning.tasks), dtype=np.float32)
        for name, weight in settings.pipeline.rank_weights.items():
            weights[self._model.task(name)] = weight
        return weights if settings.pipeline.rank_weights else None

    def _task(self, request: Request) -> int:
        settings = self._settings
        return self._model.task(settings.rank_by_scene.get(request.context.scene, settings.rank_by))


def _known(stats: NDArray[np.float32]) -> list[float]:
    """Item stats as they are logged: an item of which nothing is known has none."""
    return [] if np.isnan(stats).any() else stats.tolist()
