"""The demo's page from made-up measurements: statistics, one count of refusals, and marks beyond a limit."""

import json
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from openvla_ros.profile import load_profile
from openvla_ros.programs.demo import DemoRequest, summarise
from openvla_ros.programs.measurements import Measurements
from openvla_ros.programs.operator import Outcome


class SilentClient:
    """A client of a robot that says nothing: ``hear`` hands over what a test makes up."""

    now_ns = 10**12

    def __init__(self):
        self.node = SimpleNamespace(create_subscription=self._subscribe)
        self.callbacks = {}

    def _subscribe(self, _kind, topic, callback, _qos):
        self.callbacks[topic] = callback

    def hear_verdicts(self, callback, *, earlier):
        self.callbacks["controller/verdict"] = callback

    def wait(self, done, timeout_s):
        return done()


def status(name, level, message, **values):
    values = [KeyValue(key=key.replace("__", "/"), value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=values)


@pytest.fixture
def measured():
    client = SilentClient()
    found = Measurements(client, load_profile("sim_widowx"))
    statuses = [
        status("controller: safety", DiagnosticStatus.OK, "command: ok",
               count__ok=40, count__waiting=9, count__held=3, count__table=4, count__workspace=1),
        status("controller: camera to command", DiagnosticStatus.OK, "p95 174.0 ms; limit 600 ms",
               p50_ms="136.40", p95_ms="174.00"),
        status("simulation: physics tick", DiagnosticStatus.WARN, "p95 16.6 ms; limit 10 ms"),
        status("policy: task", DiagnosticStatus.OK, "idle", policy="small_base"),
    ]  # fmt: skip
    client.callbacks["/diagnostics"](DiagnosticArray(status=statuses))
    return found


def page_of(measured, tmp_path, interventions, *outcomes):
    request = DemoRequest("sim_widowx", "openvla", ("reach",), 30.0, tmp_path, {})
    operator = SimpleNamespace(measured=measured, client=SilentClient())
    result = summarise(request, operator, outcomes, interventions, {"policy": 0}, tmp_path / "none.mp4")
    return result, result.page.read_text(encoding="utf-8")


def test_refusals_are_the_controller_s_own_count_everywhere(measured, tmp_path):
    counts = measured.interventions()
    assert counts == {"table": 4, "workspace": 1}  # not its ordinary states
    result, page = page_of(measured, tmp_path, counts)
    assert result.figures["limited or refused by the controller"] == "5 times"
    assert json.loads((tmp_path / "summary.json").read_text())["interventions"] == counts
    assert '<td>table</td><td class="number">4</td>' in page
    assert '<td>workspace</td><td class="number">1</td>' in page


def test_latencies_say_their_statistic_and_what_is_over_its_limit_is_marked(measured, tmp_path):
    step_s = load_profile("sim_widowx").space().step_s
    for _ in range(10):
        measured.inference.add(2.0 * step_s)
        measured.age.add(0.045)
    result, page = page_of(measured, tmp_path, {})
    assert result.figures["camera to command"] == "136 ms (median), 174 ms (p95)"
    assert result.figures["camera to action"] == "45 ms (median), 45 ms (p95)"
    assert result.figures["inference"] == "⚠ 400 ms (median), 400 ms (p95); limit 200 ms"
    assert re.findall(r'class="fact warn"><b>.*?</b>([\w ]+)', page) == ["inference"]
    assert re.findall(r'<tr class="warn"><td>(.*?)</td>', page) == ["simulation: physics tick"]


def test_an_instruction_that_was_not_carried_out_stands_out(measured, tmp_path):
    done = Outcome("lift it", "succeeded", "the robot reported success", 14, 2.782278)
    late = Outcome("push it", "time_limit", "the time limit of 30 s was reached", 150, 30.0)
    result, page = page_of(measured, tmp_path, {}, done, late)
    assert result.figures["instructions carried out"] == "1 of 2"
    assert '<tr class="warn"><td>push it</td>' in page
    assert '<tr class=""><td>lift it</td><td>succeeded</td>' in page


def test_words_of_before_stay_if_nobody_speaks_again(measured):
    before = dict(measured.statuses)
    measured.wait_for_diagnostics(0.1)
    assert measured.statuses == before
