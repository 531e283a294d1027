"""An ``InstructionRun`` on a bench: its controller, log, observations and clocks are fakes."""

from openvla_ros.profile import load_profile
from openvla_ros.streams.assignment import Assignment, Outcome
from openvla_ros.streams.buffer import Moment, Refusal
from openvla_ros.streams.instruction_run import Instant, InstructionRun, RunLimits
from openvla_ros.values.health import ReasonCounter

SECOND_NS = 1_000_000_000
STALE = Refusal("stale_image", "camera 'primary': 3.000 s old")
LIMITS = {"give_up_s": 5.0, "answer_s": 0.6, "look_s": 0.5}
EPOCH_NS = 1_700_000_000 * SECOND_NS


def in_ns(seconds):
    return round(seconds * SECOND_NS)


class Bench:
    """Plays ``Effects``, ``Log`` and the clocks; ``events`` holds what reached them, in order.

    The three clocks begin at different times, so that one read in the place of another shows.
    """

    def __init__(self, active=True, **limits):
        self.passed_s = 0.0
        self.events, self.steps, self.endings = [], [], []
        self.controller_there = True
        self.refusals = ReasonCounter("refusals")
        self.moment = Moment(load_profile("sim_widowx"), 0, {}, (0, None), "")
        self.run = InstructionRun(
            self, self, lambda words, now_ns: self.moment, self.refusals, RunLimits(**{**LIMITS, **limits})
        )
        self.run.listen(self.now())
        if active:
            self.run.activate()

    # The clocks

    def now(self):
        return Instant(
            stamp_ns=in_ns(7000 + self.passed_s),
            steady_s=30.0 + self.passed_s,
            system_ns=EPOCH_NS + in_ns(self.passed_s),
        )

    def wait(self, seconds, ticks=True):
        """Let time pass; without ``ticks`` as for a process that is suspended."""
        until_s = self.passed_s + seconds
        while ticks and self.passed_s + 0.1 < until_s:
            self.passed_s += 0.1
            self.tick()
        self.passed_s = until_s
        self.tick()

    def tick(self):
        self.run.tick(self.now())

    # Effects and log

    def announce(self, instruction):
        self.events.append(("announce", instruction))

    def hold(self):
        self.events.append(("hold", ""))

    def take_over(self, assignment):
        self.events.append(("take over", assignment.instruction))
        return self.controller_there

    def info(self, message):
        self.events.append(("info", message))

    def warning(self, message):
        self.events.append(("warning", message))

    def error(self, message):
        self.events.append(("error", message))

    def told(self, kind):
        return [what for event, what in self.events if event == kind]

    # What happens to a run

    @property
    def current(self):
        """The instruction in force."""
        return self.run.acting_on(in_ns(1e6))

    def assignment(self, instruction="lift the cube", **options):
        return Assignment(
            instruction, self.now().steady_s, report=self.steps.append, ended=self.endings.append, **options
        )

    def begin(self, instruction="lift the cube", granted=True, **options):
        """Begin an instruction, for which the controller gives the arm; return it."""
        assignment = self.assignment(instruction, **options)
        self.run.begin(assignment, self.now())
        if granted:
            self.run.controller_answered(assignment, None, self.now())
        return assignment

    def end(self, assignment, outcome=Outcome.CANCELED, message="cancelled"):
        self.run.end(assignment, outcome, message, self.now())

    def say(self, words, latched=False, published_s=None):
        """Publish an instruction now, or when ``published_s`` had passed on the publisher's clock."""
        published_s = self.passed_s if published_s is None else published_s
        self.run.heard(words, EPOCH_NS + in_ns(published_s), latched, self.now())

    def look(self, assignment, listened=True):
        return self.run.look(assignment, listened, self.now())

    def send(self, assignment, inference_s=0.1, image_age_s=0.2, publish=None):
        """Try to send a chunk; the event ``chunk`` says that it went out."""
        image_ns = self.now().stamp_ns - in_ns(image_age_s)
        publish = publish or (lambda: self.events.append(("chunk", assignment.instruction)))
        return self.run.send(assignment, publish, self.now, image_ns, inference_s)

    def act(self, assignment):
        """Ask the policy, which answers at once, and send its chunk."""
        self.look(assignment)
        self.run.asked(self.now())
        self.run.answered(assignment, self.now())
        assert self.send(assignment) is not None

    def health(self):
        return self.run.health("hold", {"action_server": "ready"})
