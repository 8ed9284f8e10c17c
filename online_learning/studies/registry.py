"""The studies by name.

A study's module is imported when it is asked for, and must not import torch itself but where it measures: a list of
the studies comes at once.
"""

import importlib
from typing import Final

from online_learning.studies.study import Study, StudyError

STUDIES: Final[dict[str, str]] = {
    "collisions": "online_learning.studies.collisions:Collisions",
    "frappe": "online_learning.studies.frappe:Frappe",
    "ml-1m": "online_learning.studies.ncf:Ncf",
    "next-click": "online_learning.studies.next_click.study:NextClick",
    "sync-interval": "online_learning.studies.sync_interval:SyncInterval",
}
"""Name -> `module:class`."""


def find(name: str) -> Study:
    """The study of that name; raises StudyError where there is none."""
    if name not in STUDIES:
        raise StudyError(f"{name!r} is unknown: must be one of {', '.join(sorted(STUDIES))}")
    module, _, cls = STUDIES[name].partition(":")
    study = getattr(importlib.import_module(module), cls)()
    assert isinstance(study, Study)
    return study
