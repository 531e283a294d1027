"""Another LoRA adapter for the policy of a running node, from what its operator set."""

from __future__ import annotations

from openvla_ros.policy.factory import PolicyOptions
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import RobotProfile


def reload_adapter(policy: Policy, options: PolicyOptions, profile: RobotProfile) -> Policy:
    """Return ``policy`` with the adapter of ``options``, or none, and forget the one before.

    Nobody may use ``policy`` meanwhile. Raises what ``swap_adapter`` raises; ``policy`` is as it was then.
    """
    # Importing torch takes seconds; with this policy it is there already.
    from openvla_ros.policy.openvla_policy import OpenVLAPolicy, swap_adapter, unload_adapter

    assert isinstance(policy, OpenVLAPolicy)
    swapped = swap_adapter(
        policy,
        options.checkpoint,
        options.adapter or None,
        profile,
        unnorm_key=options.unnorm_key or None,
        center_crop=options.center_crop or None,
        offline=options.offline,
    )
    unload_adapter(swapped, getattr(policy.predictor, "adapter", None))
    return swapped
