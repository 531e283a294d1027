"""The policy node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from openvla_ros.policy.factory import DECODERS, POLICIES, QUANTIZATIONS, PolicyOptions
from openvla_ros.profile import RobotProfile
from openvla_ros.ros.parameters import parameter
from openvla_ros.streams.instruction_run import RunLimits
from openvla_ros.streams.throttle import Pacer

# An image to act on is missed this much later than two periods of the policy.
LOOK_GRACE_S = 0.1


@dataclass(frozen=True)
class PolicyParameters:
    """The policy node's parameters; those that cannot change while it runs are read-only."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    policy: str = parameter("openvla", "the policy to run", read_only=True, choices=POLICIES)
    checkpoint: str = parameter(
        "",
        "openvla: model folder or hub id; remote, openpi or act+http: folder with the checkpoint's manifest",
        read_only=True,
    )
    adapter: str = parameter(
        "", "openvla: LoRA adapter folder on top of the checkpoint; policy/reload_adapter applies a change"
    )
    unnorm_key: str = parameter("", "openvla and act+http: dataset whose statistics to use", read_only=True)
    device: str = parameter("auto", "openvla: auto, cpu, cuda or cuda:N", read_only=True)
    dtype: str = parameter(
        "auto",
        "openvla: data type of the weights; auto is bf16 on CUDA and fp32 on a CPU",
        read_only=True,
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    decoder: str = parameter(
        "fast", "openvla: decoder; all output the same tokens", read_only=True, choices=DECODERS
    )
    quantization: str = parameter(
        "none",
        "openvla: quantised weights; some tokens differ",
        read_only=True,
        choices=QUANTIZATIONS,
    )
    center_crop: bool = parameter(False, "openvla: for models trained with random crops", read_only=True)
    offline: bool = parameter(False, "openvla: never contact the hub", read_only=True)
    dataset: str = parameter("", "replay: the dataset", read_only=True)
    episode: int = parameter(0, "replay: episode number, from 0", read_only=True, low=0, high=10_000_000)
    address: str = parameter(
        "",
        "remote: ws://host:8765 of openvla serve, openpi://host:8000 of an openpi server, or "
        "act+http://host:8000/act of OpenVLA's own server",
        read_only=True,
    )
    observation_map: str = parameter(
        "",
        "remote, openpi: the keys that the server is sent, a name or a YAML file; empty: those that the "
        "server of a LeRobot policy states, else the profile's",
        read_only=True,
    )
    token_file: str = parameter("", "remote: file with the server's token", read_only=True)
    fingerprint: str = parameter(
        "",
        "remote, with wss://, openpis:// or act+https://: SHA-256 of the server's certificate; "
        "empty: an authority must have signed it",
        read_only=True,
    )
    answer_timeout_s: float = parameter(
        5.0, "remote: timeout of one answer, seconds", read_only=True, low=0.01, high=600.0
    )
    rate_hz: float = parameter(
        0.0, "inference rate, Hz; 0: the profile's action rate", read_only=True, low=0.0, high=1000.0
    )
    frozen_image_s: float = parameter(
        1.0,
        "how long a camera may repeat one image to the bit after the arm has moved, seconds; 0 (also for a "
        "simulator whose images have no noise): for ever; of no effect with a profile that has 'simulation'",
        low=0.0,
        high=60.0,
    )
    steps_between_inferences: int = parameter(
        1, "steps of a chunk to execute before the next inference", low=1, high=100
    )
    time_limit_s: float = parameter(
        60.0, "default time limit of action goals, seconds", low=0.1, high=86400.0
    )
    give_up_s: float = parameter(
        5.0, "end an instruction after this long without a step, seconds", low=0.1, high=86400.0
    )
    resume_instruction: bool = parameter(
        False,
        "resume a latched instruction that was published before this process started listening, and after a "
        "remote policy, the controller or this process was unresponsive for too long",
        read_only=True,
    )
    autostart: bool = parameter(True, "configure and activate at start", read_only=True)

    def options(self) -> PolicyOptions:
        """Return what says which policy to load."""
        return PolicyOptions(
            policy=self.policy,
            checkpoint=self.checkpoint,
            unnorm_key=self.unnorm_key,
            device=self.device,
            dtype=self.dtype,
            center_crop=self.center_crop,
            offline=self.offline,
            dataset=self.dataset,
            episode=self.episode,
            adapter=self.adapter,
            address=self.address,
            observation_map=self.observation_map,
            token_file=self.token_file,
            fingerprint=self.fingerprint,
            timeout_s=self.answer_timeout_s,
            decoder=self.decoder,
            quantization=self.quantization,
        )

    def run_limits(self, profile: RobotProfile) -> RunLimits:
        """Return how long something may stay away; a remote policy: while its robot goes on without it."""
        control, remote = profile.control, self.policy == "remote"
        return RunLimits(
            give_up_s=self.give_up_s,
            answer_s=max(control.chunk_max_age_s, control.hold_after_s) if remote else self.give_up_s,
            look_s=2.0 / profile.action_space.rate_hz + LOOK_GRACE_S,
            resume=self.resume_instruction,
        )

    def pacer(self, profile: RobotProfile) -> Pacer:
        """Return what chooses the images of the first camera that are looked at."""
        rate_hz = self.rate_hz or profile.action_space.rate_hz
        return Pacer(self.steps_between_inferences / rate_hz, 1.0 / profile.cameras[0].rate_hz)
