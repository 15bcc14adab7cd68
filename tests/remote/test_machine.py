"""Random histories of runs, lost answers, kills, cancels, expiry and two processes, against the ledger."""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lanes import FastClock, make_lane, request, run, small_fake

from fake_segmind import Behaviour, Fault, body_key
from klein9b.remote.errors import NOTHING_SENT, Interrupted, OutcomeUnknown, SegmindError, StillRunning
from klein9b.remote.service import Terms
from klein9b.remote.session import _Run
from klein9b.remote.worker import Worker

PROMPTS = st.integers(0, 2)
PROCESSES = st.integers(0, 1)
LOST = st.sampled_from(
    [
        Fault.reset_after_request(),
        Fault.close_after_request(),
        Fault.reset_at(60),
        Fault.truncated_json(),
        Fault.empty_body(),
        Fault.html(504, effect=True),
        Fault.reset_before_body(),
        Fault.html(502),
    ]
)
PASSING = st.sampled_from([Fault.html(502), Fault.reset_after_request(), Fault.truncated_json()])
ROUTES = st.sampled_from(["status", "result", "output"])


class Process:
    """A lane on a thread of its own, as another ComfyUI has it."""

    def __init__(self, fake, directory, clock):
        self.worker = Worker()
        self.lane = make_lane(fake, directory, clock=clock, worker=self.worker)

    def start(self, prompt):
        """A run that nobody interrupts, under way."""
        return self.worker.submit(self.lane._batch([request(str(prompt))], [], Terms(), _Run([None])))

    def kill(self):
        """As kill -9 leaves things: nothing is written any more, no connection says goodbye."""
        self.worker.submit(self._cut_off()).result(10)
        self.worker.close()

    async def _cut_off(self):
        if self.lane._opened:
            self.lane._opened[2]._db.close()

    def close(self):
        with contextlib.suppress(Exception):
            asyncio.run(self.lane.close())
        self.worker.close()


class Money(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.stack = contextlib.ExitStack()
        self.fake = self.stack.enter_context(small_fake())
        self.fake.behaviour = Behaviour(run_seconds=0.03)
        self.clock = FastClock()
        self.processes = [self.process(), self.process()]
        self.asked, self.delivered = set(), {}

    def process(self):
        return Process(self.fake, self.folder / "d", self.clock)

    def picture(self, process, prompt, timeout_s=900.0):
        self.asked.add(prompt)
        try:
            got = run(self.processes[process].lane, request(str(prompt)), timeout_s=timeout_s)[0]
        except SegmindError as error:
            assert isinstance(error, (OutcomeUnknown, StillRunning)) or error.money == NOTHING_SENT
            assert self.fake.key not in str(error)
            return None
        assert self.delivered.setdefault(prompt, got.receipt["sha256"]) == got.receipt["sha256"]
        return got

    @rule(process=PROCESSES, prompt=PROMPTS)
    def submit_or_rerun(self, process, prompt):
        self.picture(process, prompt)

    @rule(process=PROCESSES, prompt=PROMPTS, timeout_s=st.sampled_from([1.0, 3.0, 9.0]))
    def give_up_early(self, process, prompt, timeout_s):
        self.picture(process, prompt, timeout_s)

    @rule(process=PROCESSES, prompt=PROMPTS, fault=LOST)
    def lose_the_answer(self, process, prompt, fault):
        self.fake.script("submit", fault)
        self.picture(process, prompt)
        self.fake.plan.clear()

    @rule(process=PROCESSES, prompt=PROMPTS, route=ROUTES, fault=PASSING)
    def disturb(self, process, prompt, route, fault):
        self.fake.script(route, fault)
        self.picture(process, prompt)
        self.fake.plan.clear()

    @rule(process=PROCESSES, prompt=PROMPTS, looks=st.integers(0, 12))
    def cancel(self, process, prompt, looks):
        """Interrupts a run at a random moment."""
        self.asked.add(prompt)
        asked = itertools.count()
        lane = self.processes[process].lane
        work = lane.run([request(str(prompt))], [], Terms(), cancelled=lambda: next(asked) >= looks)
        with contextlib.suppress(Interrupted, OutcomeUnknown):
            asyncio.run(work)

    @rule(process=PROCESSES, prompt=PROMPTS, seconds=st.floats(0.0, 0.15))
    def kill_and_restart(self, process, prompt, seconds):
        """kill -9 in the middle of a run, then the program again."""
        self.asked.add(prompt)
        victim = self.processes[process]
        victim.start(prompt)
        time.sleep(seconds)
        victim.kill()
        self.processes[process] = self.process()

    @rule(prompt=PROMPTS)
    def both_at_once(self, prompt):
        """Two processes run the same inputs in the same moment."""
        self.asked.add(prompt)
        for future in [process.start(prompt) for process in self.processes]:
            future.result(60)

    @precondition(lambda self: not self.delivered)
    @rule()
    def the_hour_passes(self):
        self.fake.clock.advance(3700)
        self.clock.slept += 3700

    @invariant()
    def no_request_is_charged_twice(self):
        if hasattr(self, "fake"):
            assert all(count <= 1 for count in self.fake.charges_by_body.values())
            assert all(count <= 1 for count in self.jobs_by_body().values())
            assert not self.fake.key_leaks

    def jobs_by_body(self):
        bodies = [body_key(job.body) for job in self.fake.jobs]
        return {body: bodies.count(body) for body in bodies}

    def teardown(self):
        if not hasattr(self, "fake"):
            return
        try:
            self.nothing_paid_is_lost()
        finally:
            for process in self.processes:
                process.close()
            self.stack.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def nothing_paid_is_lost(self):
        self.fake.plan.clear()
        accepted = {job.body["prompt"] for job in self.fake.jobs}
        for prompt in self.asked:
            got = self.picture(0, prompt)
            assert got or str(prompt) not in accepted, "a paid picture was lost"
        self.no_request_is_charged_twice()


Money.TestCase.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMoney = Money.TestCase
