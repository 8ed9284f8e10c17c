"""Which experiment a request takes part in, and which policy answers it."""

from collections.abc import Iterable

from msgspec import Struct

from serving.experiments.assignment import decide
from serving.pipeline.request import Request
from serving.policies import ONLINE, POLICIES, POPULARITY
from streams.records import Assignment, Experiment


class Plan(Struct, frozen=True):
    """The policy that answers, the assignment that decided it, and why it is not the arm's own policy, if so."""

    policy: str
    assignment: Assignment | None = None
    fallback: str = ""

    @property
    def arm(self) -> str:
        """The arm whose own statistics are used; "" outside of experiments."""
        return self.assignment.arm if self.assignment is not None else ""


def plan_for(experiments: Iterable[Experiment], request: Request, *, model_missing: str) -> Plan:
    """The first active experiment of the request's scene decides; without one the online model answers.

    `model_missing` says why the online model cannot score, "" where it can. Only one experiment decides, so that each
    assignment on record is one that had its effect.
    """
    scene = request.context.scene
    decisive = (e for e in experiments if e.active and (e.scene is None or e.scene == scene))
    experiment = next(decisive, None)
    if experiment is None:
        return _feasible(ONLINE, None, model_missing)
    decision = decide(experiment, _unit(experiment, request))
    return _feasible(decision.policy, decision.assignment, model_missing)


def _unit(experiment: Experiment, request: Request) -> str:
    units = {"user": request.user, "session": request.context.session or "", "request": request.request_id}
    return units.get(experiment.unit_type, "")


def _feasible(policy: str, assignment: Assignment | None, model_missing: str) -> Plan:
    if policy not in POLICIES:
        return Plan(POPULARITY, assignment, f"policy {policy!r} is unknown, must be one of: {', '.join(POLICIES)}")
    if policy == ONLINE and model_missing:
        return Plan(POPULARITY, assignment, model_missing)
    return Plan(policy, assignment)
