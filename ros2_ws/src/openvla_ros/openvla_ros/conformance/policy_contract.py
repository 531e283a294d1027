"""Conformance check for policies (``openvla_ros.policy.protocol.Policy``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from openvla_ros.conformance.contract import Contract
from openvla_ros.errors import ConformanceError, ModelOutputError, OpenVLARosError, PolicyError
from openvla_ros.policy.protocol import Policy, Preparing, Reporting
from openvla_ros.robot.safety.chunk import BOUNDS_SLACK
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation

MEMBERS = {"space": False, "description": False, "infer": True, "reset": True, "close": True}
REFUSALS = (PolicyError, ModelOutputError)
UNKNOWN_CAMERA = "conformance_no_such_camera"


def check_policy(policy: Policy, observation: Observation) -> None:
    """Check ``policy`` against its protocol, and close it.

    Calls it three times on ``observation`` with a reset in between, then on observations that lack the
    camera's name or the robot's state. Those it may refuse, but only with ``PolicyError``.

    Args:
        policy: The policy to check; only the protocol is used.
        observation: One that the policy can act on: its cameras by name, uint8 (H, W, 3), an instruction
            that it understands, and the state that it needs.

    Raises:
        ConformanceError: The first violation: what the contract says, what happened instead, and where
            the contract is written.
    """
    contract = Contract(Policy, type(policy).__name__)
    contract.check_members(policy, MEMBERS)
    contract.check_text("description", lambda: policy.description)
    space = contract.call("space", lambda: policy.space)
    contract.require(
        isinstance(space, ActionSpace), "space", "it is an ActionSpace", f"a {type(space).__name__}"
    )
    _check_optional(policy, observation)
    _acts(contract, policy, observation, space)
    _acts(contract, policy, observation, space)  # clears the state of the first call
    _acts(contract, policy, observation, space, reset_first=True)
    lines = space.differences(contract.call("space", lambda: policy.space))
    contract.require(not lines, "space", "it stays the same", "; ".join(lines))
    _refuses(contract, policy, observation, space)
    contract.check_close(policy.close)


def _acts(
    contract: Contract,
    policy: Policy,
    observation: Observation,
    space: ActionSpace,
    reset_first: bool = False,
) -> None:
    """Run the policy on an observation that it can act on; if it refuses, reset it and try once more."""
    if reset_first:
        contract.call("reset", policy.reset)
    try:
        chunk = contract.call("infer", lambda: policy.infer(observation), REFUSALS)
    except REFUSALS as error:
        if not reset_first:  # played to its end, perhaps
            _acts(contract, policy, observation, space, reset_first=True)
            return
        raise contract.broken(
            "infer",
            "it returns actions for an observation that has everything it needs, after a reset too",
            f"{type(error).__name__}: {error}",
        ) from error
    _check_chunk(contract, chunk, observation, space)


def _check_chunk(
    contract: Contract, chunk: ActionChunk, observation: Observation, space: ActionSpace
) -> None:
    def require(holds: bool, says: str, got: str) -> None:
        contract.require(holds, "infer", says, got)

    require(isinstance(chunk, ActionChunk), "it returns an ActionChunk", f"a {type(chunk).__name__}")
    lines = space.differences(chunk.space)
    require(not lines, "the chunk's space is the policy's", "; ".join(lines))
    got = chunk.observation_stamp_ns
    require(
        got == observation.stamp_ns,
        "observation_stamp_ns is the stamp of the observation that the actions were computed from",
        f"{got} for an observation of {observation.stamp_ns}",
    )
    slack = BOUNDS_SLACK * (space.upper - space.lower)
    beyond = (chunk.actions < space.lower - slack) | (chunk.actions > space.upper + slack)
    if beyond.any():
        step, i = (int(k) for k in np.argwhere(beyond)[0])
        require(
            False,
            f"actions lie within the space's bounds ({space.lower[i]:g} .. {space.upper[i]:g} "
            f"{space.units[i]} for {space.names[i]}); the controller refuses them a tenth beyond",
            f"{space.names[i]} of step {step} is {chunk.actions[step, i]:g}",
        )
    if chunk.probability is not None:
        within = bool(np.all((chunk.probability >= 0.0) & (chunk.probability <= 1.0)))
        require(
            within,
            "probability lies within 0 .. 1",
            f"{chunk.probability.min()} .. {chunk.probability.max()}",
        )


def _refuses(contract: Contract, policy: Policy, observation: Observation, space: ActionSpace) -> None:
    """Try incomplete observations: the policy either acts or raises ``PolicyError``."""
    image = next(iter(observation.images.values()))
    lacking = {
        "its cameras": replace(observation, images={UNKNOWN_CAMERA: image}),
        "joints, pose and gripper": replace(observation, joint_positions=None, pose=None, gripper=None),
    }
    for what, lesser in lacking.items():
        contract.call("reset", policy.reset)
        try:
            chunk = contract.call("infer", partial(policy.infer, lesser), REFUSALS)
        except REFUSALS:
            continue
        except ConformanceError as error:
            raise ConformanceError(f"without {what}: {error}") from error
        _check_chunk(contract, chunk, lesser, space)


def _check_optional(policy: Policy, observation: Observation) -> None:
    """Check the optional methods, where the policy has them."""
    name = type(policy).__name__
    if isinstance(policy, Preparing):
        contract, prepare = Contract(Preparing, name), policy.prepare
        told = contract.call("prepare", lambda: prepare(observation.instruction), (OpenVLARosError,))
        contract.require(isinstance(told, bool), "prepare", "it returns whether it took long", repr(told))
    if isinstance(policy, Reporting):
        contract = Contract(Reporting, name)
        found = contract.call("report", policy.report)
        texts = isinstance(found, Mapping) and all(
            isinstance(part, str) for pair in found.items() for part in pair
        )
        contract.require(texts, "report", "it returns names and values as text", repr(found))
