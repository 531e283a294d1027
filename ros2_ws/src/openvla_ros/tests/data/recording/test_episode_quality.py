"""Quality is seen while recording and afterwards, by the same code, and what is wrong is named."""

from dataclasses import replace

import numpy as np
import pytest
from support.fake_recording import MS, PROFILE, START, image, image_message, steady_run, verdict_message

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.recording.episode_quality import QualityMonitor, QualityReport, episode_quality, measure
from openvla_ros.data.recording.stream_quality import ImageWatch, StreamStatistics

REAL = replace(PROFILE, simulation=None)
CAMERA = "camera/primary/image_raw"


def encode(kind, message):
    from support.fake_recording import STORE

    return bytes(STORE.serialize_cdr(message, kind))


def kinds(profile):
    found = {f"camera/{c.name}/image_raw": cdr.IMAGE for c in profile.cameras}
    found |= {"joint_states": "sensor_msgs/msg/JointState"}
    found |= {"controller/verdict": "diagnostic_msgs/msg/DiagnosticStatus"}
    return {role: (kind, message_definition(kind)) for role, kind in found.items()}


def watched(run, profile=REAL):
    """The report of a run's messages in the order of their arrival."""
    types = kinds(profile)
    monitor = QualityMonitor(profile, types)
    flat = [(t, role, m) for role, found in run.messages.items() for t, m in found]
    for received, role, message in sorted(flat, key=lambda item: item[0]):
        if role in types:
            monitor.see(role, encode(types[role][0], message), received)
    return monitor.report()


def warnings(run, profile=REAL):
    return " | ".join(watched(run, profile).warnings)


def moving(run):
    """Give the arm a motion that nothing objects to."""
    states = run.messages["joint_states"]
    run.messages["joint_states"] = [
        (t, replace(m, position=m.position + 0.3 * np.sin(i / 40))) for i, (t, m) in enumerate(states)
    ]
    return run


def test_a_good_run_has_no_warnings_and_its_real_rates():
    report = watched(moving(steady_run()))
    assert report.warnings == ()
    assert float(report.values["camera primary rate_hz"]) == pytest.approx(10, abs=0.2)
    assert float(report.values["joint states rate_hz"]) == pytest.approx(100, abs=1)
    assert float(report.values["camera primary lag_ms"]) == pytest.approx(30, abs=0.1)


def test_a_slow_camera_and_a_silent_one():
    run = moving(steady_run())
    run.messages[CAMERA] = run.messages[CAMERA][::2]
    assert "camera primary: 5.0 Hz instead of 10" in warnings(run)
    run.messages[CAMERA] = run.messages[CAMERA][:5]
    assert "camera primary: silent for" in warnings(run)
    run.messages[CAMERA] = []
    assert "camera primary: no message" in warnings(run)


def test_lag_is_told():
    run = moving(steady_run())
    run.messages[CAMERA] = [(t + 300 * MS, m) for t, m in run.messages[CAMERA]]
    assert "camera primary lags by 330 ms" in warnings(run)


def test_a_frozen_image_and_one_that_may_stand_still():
    run = moving(steady_run())
    frozen = image(np.random.default_rng(1))
    images = run.messages[CAMERA]
    for i in range(10, 30):
        stamp = images[i][1].header.stamp
        images[i] = (images[i][0], image_message(stamp.sec * 10**9 + stamp.nanosec, frozen))
    assert "camera primary showed the same image for 1.9 s" in warnings(run)
    assert "same image" in warnings(run, PROFILE), "the simulated arm moved, so its image must change"
    still = steady_run()
    for state in still.messages["joint_states"]:
        state[1].position[:] = 0.0
    still.messages[CAMERA] = images
    assert "same image" not in warnings(still, PROFILE), "a simulated arm that stands still has one image"
    assert "same image" in warnings(still), "a real camera has noise"


def test_black_images():
    run = moving(steady_run())
    images = run.messages[CAMERA]
    for i in range(10, 30):
        stamp = images[i][1].header.stamp
        dark = np.random.default_rng(i).integers(0, 6, (24, 32, 3), dtype=np.uint8)
        images[i] = (images[i][0], image_message(stamp.sec * 10**9 + stamp.nanosec, dark))
    assert "camera primary was black for 1.9 s" in warnings(run)


def test_black_jpegs_are_seen_too():
    watch = ImageWatch()
    for i in range(30):
        dark = np.full((24, 32, 3), i % 3, np.uint8)
        data = cdr.compress_image(encode(cdr.IMAGE, image_message(START, dark)), 95)
        watch.look(cdr.COMPRESSED_IMAGE, data, START + i * 100 * MS)
    assert watch.black_s == pytest.approx(2.9)
    assert watch.frozen_s == 0.0


def test_cameras_that_see_different_moments():
    profile = replace(
        REAL, cameras=(*REAL.cameras, replace(REAL.cameras[0], name="wrist", topic="wrist/image"))
    )
    run = moving(steady_run())
    run.messages["camera/wrist/image_raw"] = [
        (t, image_message(START + 100 * MS + i * 100 * MS, image(np.random.default_rng(i))))
        for i, (t, _) in enumerate(run.messages[CAMERA])
    ]
    assert "apart" not in warnings(run, profile)
    late = [
        (t, image_message(START - 100 * MS + i * 100 * MS, image(np.random.default_rng(i))))
        for i, (t, _) in enumerate(run.messages[CAMERA])
    ]
    run.messages["camera/wrist/image_raw"] = late
    assert "cameras were up to" in warnings(run, profile)


def test_idle_stretches():
    run = moving(steady_run(8.0))
    for i, (_, message) in enumerate(run.messages["joint_states"]):
        if 200 <= i < 550:
            message.position[:] = 0.1
    report = watched(run)
    assert float(report.values["idle_s_longest"]) == pytest.approx(3.5, abs=0.15)
    assert any("stood still for 3." in warning for warning in report.warnings)


def test_limits_are_counted_once_each_time():
    run = moving(steady_run())
    for i, reason in enumerate(["ok", "workspace", "workspace", "ok", "workspace", "tilt"]):
        run.add("controller/verdict", START + i * 300 * MS, verdict_message(reason=reason, owner="policy"))
    assert "limits reached: tilt 1, workspace 2" in warnings(run)


def test_damaged_messages_are_counted_not_fatal():
    monitor = QualityMonitor(REAL, kinds(REAL))
    monitor.see(CAMERA, b"\x00\x01\x00", START)
    monitor.see("joint_states", b"", START + 2000 * MS)
    assert "2 messages could not be read" in monitor.report().warnings


def test_a_joint_state_without_positions_is_only_counted():
    run = moving(steady_run())
    states = run.messages["joint_states"]
    run.messages["joint_states"] = [
        (t, replace(m, position=m.position[:0] if i % 3 else m.position)) for i, (t, m) in enumerate(states)
    ]
    report = watched(run)
    assert report.warnings == ()
    assert report.values["joint states messages"] == str(len(states))


def test_a_report_survives_being_stored():
    report = watched(steady_run())
    assert report.warnings
    assert QualityReport.from_record(report.record()) == report


def test_offline_gives_what_live_gave(tmp_path):
    run = moving(steady_run())
    run.messages[CAMERA] = run.messages[CAMERA][::2]
    folder = run.write(tmp_path / "episode_000000")
    assert measure(folder) == watched(run, PROFILE)
    stored = ("camera primary was black for 3.0 s",)
    assert episode_quality(folder).warnings == stored, "what was stored is not measured again"
    assert summarise_one(folder).warnings[0] == stored[0]


def summarise_one(folder):
    from openvla_ros.data.datasets.listing import summarise
    from openvla_ros.data.datasets.open_dataset import SourceRequest

    (summary,) = summarise(SourceRequest(folder).open())
    return summary


def test_statistics_count_gaps_and_stamps_that_go_back():
    statistics = StreamStatistics("x", 10.0)
    for stamp in (0, 100, 200, 500, 400, 500):
        statistics.add(START + stamp * MS, START + stamp * MS + 5 * MS)
    assert (statistics.count, statistics.missing, statistics.backwards) == (6, 2, 1)
    assert statistics.lag_mean_s == pytest.approx(0.005)
