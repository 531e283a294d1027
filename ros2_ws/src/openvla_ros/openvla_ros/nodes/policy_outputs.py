"""What the policy node says: action chunks, what is being carried out, and what it asks of the controller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.robot.authority import PERSON
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_chunk_message
from openvla_ros.streams.assignment import Assignment
from openvla_ros.values.action import ActionChunk


class PolicyOutputs:
    """Publishers and clients, from ``connect`` to ``disconnect``; the ``Effects`` of an ``InstructionRun``.

    Safe from any thread; nothing waits for an answer.
    """

    def __init__(
        self,
        node: Node,
        frame_id: str,
        drop: Callable[[], None],
        answered: Callable[[Assignment, str | None], None],
    ) -> None:
        """``frame_id`` is that of the actions; ``drop`` forgets work that waits for an instruction.

        ``answered`` hears, on the executor's thread, whether the controller gave the arm: ``None``, or why
        it did not.
        """
        self._node, self._frame_id, self._drop, self._answered = node, frame_id, drop, answered
        self.last_hold: Future | None = None  # the controller's answer to the newest hold
        self.owner = ""  # of the arm, as the controller said last

    def connect(self) -> None:
        """Create everything."""
        self._chunks = self._node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self._current = self._node.create_publisher(String, "policy/instruction", qos.LATCHED)
        self._hold = self._node.create_client(Trigger, "controller/hold")
        self._take_over = self._node.create_client(Trigger, "controller/ask_for_policy")

    def disconnect(self) -> None:
        """Destroy what ``connect`` created."""
        for publisher in (self._chunks, self._current):
            self._node.destroy_publisher(publisher)
        for client in (self._hold, self._take_over):
            self._node.destroy_client(client)

    @property
    def listened(self) -> bool:
        """Whether somebody takes action chunks."""
        return bool(self._chunks.get_subscription_count())

    def publisher_of(self, chunk: ActionChunk) -> Callable[[], None]:
        """Return what publishes ``chunk``, which is converted now."""
        return partial(self._chunks.publish, to_chunk_message(chunk, self._frame_id))

    def announce(self, instruction: str) -> None:
        """Say what is carried out from now on; drop work that waits for the instruction before."""
        self._drop()
        self._current.publish(String(data=instruction))

    def hold(self) -> None:
        """Ask the controller to hold the arm, if it is there and no person has it."""
        if self._hold.service_is_ready() and self.owner != PERSON:
            self.last_hold = self._hold.call_async(Trigger.Request())

    def take_over(self, assignment: Assignment) -> bool:
        """Ask the controller for the arm; return whether it is there to answer."""
        if not self._take_over.service_is_ready():
            return False
        future = self._take_over.call_async(Trigger.Request())
        future.add_done_callback(partial(self._taken_over, assignment))
        return True

    def _taken_over(self, assignment: Assignment, future: Future) -> None:
        answer = future.result()
        refused = answer is not None and not answer.success
        self._answered(assignment, answer.message if refused else None)
