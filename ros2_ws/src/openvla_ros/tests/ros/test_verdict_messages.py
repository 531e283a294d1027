"""A verdict as a service's answer: what was asked for succeeds, and only the rest is reported as refused."""

import pytest
from std_srvs.srv import Trigger

from openvla_ros.ros.verdict_messages import trigger_service
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

HELD = SafetyVerdict.hold(Reason.HELD, "by the operator")


@pytest.mark.parametrize(
    ("verdict", "granted", "success"),
    [
        (OK, Reason.OK, True),
        (SafetyVerdict.command(Reason.WORKSPACE, "x 0.5 m"), Reason.OK, True),
        (HELD, Reason.HELD, True),
        (HELD, Reason.E_STOP, False),
    ],
)
def test_a_service_answers_with_its_verdict(verdict, granted, success):
    refused = []
    answer = trigger_service(lambda: verdict, granted, refused.append)(Trigger.Request(), Trigger.Response())
    assert (answer.success, answer.message) == (success, str(verdict))
    assert refused == ([] if success else [verdict])
