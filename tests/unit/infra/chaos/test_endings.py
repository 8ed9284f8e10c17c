"""What the supervisor says of processes that ended."""

from infra.chaos.compare import endings
from infra.local.managed import ended


def said(*codes: int) -> str:
    return "\n".join(f"WARNING supervisor: worker {ended(code, 'IndexError: 0')}; again in 0.2 s" for code in codes)


def test_who_is_killed_did_not_end_by_itself():
    check = endings("INFO supervisor: worker is up\n" + said(-9, -9))
    assert check.ok and check.compared == "2 kills"


def test_who_fell_over_is_named_with_its_last_word():
    check = endings(said(-9, 1))
    assert check.wrong == said(1) and "IndexError" in check.wrong
