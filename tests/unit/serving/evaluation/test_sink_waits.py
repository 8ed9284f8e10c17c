"""A sink that begins while a server is away says so, waits, and ends when it is told to."""

import threading

from serving.evaluation import sink
from serving.settings import ClickHouseSettings, ServingSettings
from streams.health import Health
from streams.settings import KafkaSettings
from tests.stacks import wait_until

# Port 1 is reserved and has no listener: connections are refused at once.
NOWHERE = "127.0.0.1:1"


def test_the_first_word_of_a_sink_without_clickhouse_is_what_it_waits_for() -> None:
    settings = ServingSettings(kafka=KafkaSettings(bootstrap=NOWHERE), clickhouse=ClickHouseSettings(address=NOWHERE))
    stop, health = threading.Event(), Health(None)
    thread = threading.Thread(target=sink.run, args=(settings, stop, health))
    thread.start()
    try:
        wait_until(lambda: health.values, 30, "it says something")
        assert health.values["waiting_for"] == "ClickHouse"
        assert NOWHERE.partition(":")[0] in str(health.values["error"])
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
