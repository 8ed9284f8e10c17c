"""The impression log never blocks and never grows without bound, also when there is no broker."""

from serving.impressions import ImpressionLog
from streams.records import Impression
from streams.settings import KafkaSettings

# Port 1 is reserved and has no listener: connections are refused at once.
NOWHERE = KafkaSettings(bootstrap="127.0.0.1:1")


def impression(number: int) -> Impression:
    return Impression(v=1, request_id=str(number), ts=number, user="u", items=[])


def test_without_a_broker_what_has_no_room_is_dropped_and_counted() -> None:
    log = ImpressionLog(NOWHERE, max_waiting=10)
    taken = [log.add(impression(k)) for k in range(25)]
    assert taken == [True] * 10 + [False] * 15
    assert (log.counts.taken, log.counts.dropped, log.counts.held) == (25, 15, 10)
    after = log.close(timeout_s=0.1)
    assert (after.acknowledged, after.dropped, after.held) == (0, 25, 0)
