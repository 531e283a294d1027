"""Rates, ages and refusals are counted as they happened."""

from openvla_ros.values.health import LatencyHealth, ReasonCounter, StreamHealth

SECOND = 1_000_000_000


def test_a_steady_stream_is_ok_and_its_rate_is_measured():
    stream = StreamHealth("camera", rate_hz=10, max_age_s=0.5)
    for i in range(20):
        stream.received(i * SECOND // 10, i * SECOND // 10 + 5_000_000)
    health = stream.health(2 * SECOND)
    assert (health.level, health.values["rate_hz"], health.values["missing"]) == ("ok", "10.00", "0")


def test_gaps_slowness_age_and_time_going_backwards_are_seen():
    stream = StreamHealth("camera", rate_hz=10, max_age_s=0.5)
    assert stream.health(0).level == "error"
    for i in range(10):
        stream.received(i * SECOND // 2, i * SECOND // 2)
    assert stream.health(9 * SECOND // 2).level == "warn"
    assert stream.gaps == 9 * 4
    assert stream.health(6 * SECOND).level == "stale"
    stream.received(SECOND, 6 * SECOND)
    assert stream.backwards == 1


def test_latency_is_warned_about_over_the_limit_only():
    latency = LatencyHealth("inference", limit_s=0.2)
    assert latency.health().message == "no measurements yet"
    latency.add(0.1)
    assert latency.health().level == "ok"
    for _ in range(30):
        latency.add(0.3)
    assert latency.health().level == "warn"


def test_percentiles_of_a_window_are_those_of_its_values():
    latency = LatencyHealth("inference", limit_s=1.0, window=100)
    for milliseconds in (7, *range(1, 101)):  # the first one has left the window
        latency.add(milliseconds * 1e-3)
    values = {key: float(value) for key, value in latency.health().values.items()}
    assert values == {"mean_ms": 50.5, "p50_ms": 51.0, "p95_ms": 96.0, "p99_ms": 100.0, "max_ms": 100.0}


def test_refusals_are_counted_by_reason_and_warned_about_once():
    refusals = ReasonCounter("refused")
    refusals.add("stale", "0.9 s")
    refusals.add("stale", "1.0 s")
    first, second = refusals.health(), refusals.health()
    assert (first.level, first.message, first.values) == ("warn", "2 new; stale: 1.0 s", {"stale": "2"})
    assert second.level == "ok"
