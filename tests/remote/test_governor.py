import asyncio
import itertools
from random import Random

import httpx
import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.remote.cadence import Cadence, Durations
from klein9b.remote.governor import Governor, Priority

RESULT, SUBMIT, STATUS = Priority.RESULT, Priority.SUBMIT, Priority.STATUS
API = "api.segmind.com"
quick = settings(deadline=None, max_examples=60)


class Log:
    """Takes turns and remembers when each was given."""

    def __init__(self, governor):
        self.governor, self.given = governor, []

    async def take(self, priority, *, host=API):
        async with self.governor.turn(priority, host=host):
            self.given.append((self.governor.clock.monotonic(), priority))

    async def all(self, priorities):
        await asyncio.gather(*(self.take(priority) for priority in priorities))
        return self.given


def drained(clock, **options):
    """A governor with an empty bucket."""
    governor = Governor(clock=clock, **options)
    governor._tokens = 0.0
    return governor


# --- rate


def test_a_quiet_account_gets_its_burst_at_once_and_then_the_rate():
    async def main(clock):
        return await Log(Governor(clock=clock)).all([STATUS] * 60)

    times = [at for at, _ in virtual_time.run(main)]
    assert times[:10] == [0.0] * 10
    assert times[-1] == pytest.approx(60.0, rel=1e-3)  # 50 more at 50 a minute
    gaps = [after - before for before, after in itertools.pairwise(times[10:])]
    assert min(gaps) > 1.19


@quick
@given(st.integers(1, 12), st.floats(5, 300), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_window_of_a_minute_holds_more_than_the_rate_and_the_burst(burst, per_minute, arrivals):
    async def main(clock):
        log = Log(Governor(per_minute=per_minute, burst=burst, clock=clock))

        async def arrive(at):
            await clock.sleep(at)
            await log.take(STATUS)

        await asyncio.gather(*map(arrive, arrivals))
        return [at for at, _ in log.given]

    times = virtual_time.run(main)
    assert len(times) == len(arrivals)
    for start in times:
        assert sum(start <= at < start + 60 for at in times) <= per_minute + burst + 1


def test_a_quiet_hour_saves_no_more_than_the_burst():
    async def main(clock):
        log = Log(Governor(clock=clock))
        await clock.sleep(3600.0)
        return await log.all([STATUS] * 12)

    assert [at for at, _ in virtual_time.run(main)].count(3600.0) == 10


# --- order


def test_results_before_submits_before_looks_and_first_come_first_served():
    async def main(clock):
        log = Log(drained(clock))
        seen = []

        async def take(priority, name):
            async with log.governor.turn(priority):
                seen.append(name)

        order = [
            (STATUS, "s0"),
            (SUBMIT, "p0"),
            (STATUS, "s1"),
            (RESULT, "r0"),
            (SUBMIT, "p1"),
            (RESULT, "r1"),
        ]
        await asyncio.gather(*(take(*one) for one in order))
        return seen

    assert virtual_time.run(main) == ["r0", "r1", "p0", "p1", "s0", "s1"]


def test_a_submit_is_not_starved_by_results():
    async def main(clock):
        return await Log(drained(clock)).all([RESULT] * 40 + [SUBMIT] * 5)

    given = [priority for _, priority in virtual_time.run(main)]
    assert [index for index, one in enumerate(given) if one is SUBMIT] == [4, 9, 14, 19, 24]


@quick
@given(st.lists(st.sampled_from(Priority), min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_while_a_submit_waits_one_turn_in_five_is_a_submit(priorities, rng):
    async def main(clock):
        return await Log(drained(clock)).all(priorities)

    given = [priority for _, priority in virtual_time.run(main)]
    assert sorted(given) == sorted(priorities)
    until = max((index for index, one in enumerate(given) if one is SUBMIT), default=-1)
    for start in range(until - 3):
        assert SUBMIT in given[start : start + 5]


# --- 429


@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_a_refusal_halves_the_rate_once_and_it_grows_back_a_tenth_a_minute(latency):
    async def main(clock):
        governor = Governor(clock=clock)

        async def refused():
            async with governor.turn(STATUS) as turn:
                await clock.sleep(latency)
                turn.limited(None)

        await asyncio.gather(*(refused() for _ in range(5)))
        rates = [governor.rate]
        for _ in range(6):
            await clock.sleep(60.0)
            governor._refill(clock.monotonic())
            rates.append(governor.rate)
        return rates

    assert virtual_time.run(main) == pytest.approx([25, 30, 35, 40, 45, 50, 50])


def test_refusals_one_after_another_keep_halving_down_to_a_floor():
    async def main(clock):
        governor, rates = Governor(clock=clock), []
        for _ in range(8):
            async with governor.turn(STATUS) as turn:
                turn.limited(None)
            rates.append(governor.rate)
            governor._tokens = 1.0
            await clock.sleep(0.01)
        return rates

    assert virtual_time.run(main) == pytest.approx([25, 12.5, 6.25, 3.125, 1.5625, 1, 1, 1], abs=0.1)


def test_nobody_goes_until_the_server_said_so():
    async def main(clock):
        log = Log(Governor(clock=clock))
        async with log.governor.turn(STATUS) as turn:
            turn.limited(33.0)
        return await log.all([STATUS, RESULT])

    times = [at for at, _ in virtual_time.run(main)]
    assert times[0] == pytest.approx(33.0, abs=0.01)
    assert times[1] == pytest.approx(33.0, abs=0.01)  # 33 s at 25 a minute and more filled the bucket


def test_against_a_server_with_a_lower_limit_the_rate_finds_it():
    """A server that allows 20 a minute: after the first minutes few requests are refused."""

    async def main(clock):
        governor, window, refused = Governor(clock=clock), [], []

        async def ask(_):
            async with governor.turn(STATUS) as turn:
                now = clock.monotonic()
                window[:] = [at for at in window if at > now - 60]
                if len(window) < 20:
                    window.append(now)
                    return
                turn.limited(window[0] + 60 - now)
                refused.append(now)

        await asyncio.gather(*map(ask, range(400)))
        return clock.monotonic(), refused

    took, refused = virtual_time.run(main)
    assert took < 1.35 * 60 * 400 / 20  # at most a third slower than a client that knew the limit
    assert sum(at > 300 for at in refused) / 400 < 0.1


# --- jobs in flight


def test_at_most_eight_jobs_are_in_flight_and_all_of_them_finish_in_order():
    async def main(clock):
        governor, running, most, started = Governor(clock=clock), set(), [], []

        async def job(number):
            async with governor.job():
                running.add(number)
                started.append(number)
                most.append(len(running))
                await clock.sleep(10.0)
                running.remove(number)

        await asyncio.gather(*map(job, range(40)))
        return max(most), started

    assert virtual_time.run(main) == (8, list(range(40)))


def test_two_hundred_jobs_at_once_finish_at_the_rate_of_the_account():
    """Submit, looks and result of 200 jobs through one governor at 50 a minute."""

    async def main(clock):
        rng, durations = Random(3), Durations()
        governor, looks, ends, waits = Governor(clock=clock), [], [], []

        async def job(_):
            async with governor.job():
                asked = clock.monotonic()
                async with governor.turn(SUBMIT, host=API):
                    start = clock.monotonic()
                waits.append(start - asked)
                duration, cadence, seen = rng.lognormvariate(2.6, 0.2), Cadence(durations, rng), 0
                while True:
                    await clock.sleep(cadence.wait(clock.monotonic() - start))
                    async with governor.turn(STATUS, host=API):
                        seen += 1
                    if clock.monotonic() - start >= duration:
                        break
                async with governor.turn(RESULT, host=API):
                    looks.append(seen)
                durations.learn(duration)
                ends.append(clock.monotonic())

        await asyncio.gather(*map(job, range(200)))
        return sum(looks) / 200, max(ends), max(waits)

    looks, took, longest = virtual_time.run(main)
    print(f"{looks:.2f} looks a job, {took:.0f} s for 200, longest wait for a submit {longest:.1f} s")
    assert took == pytest.approx(60 * 200 * (looks + 2) / 50, rel=0.1)  # the bucket was never idle
    assert looks <= 8
    assert longest <= 12.0  # eight submits, each behind four others, at 50 a minute take 48 s: strict order is better


# --- cancelling


def test_a_cancelled_wait_takes_nothing_and_leaves_nothing():
    async def main(clock):
        log = Log(drained(clock))
        waiting = [asyncio.create_task(log.take(STATUS)) for _ in range(20)]
        await clock.sleep(2.5)
        for task in waiting[:15]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [at for at, _ in log.given], log.governor._waiting

    times, waiting = virtual_time.run(main)
    assert times == pytest.approx([1.2, 2.4, 3.6, 4.8, 6.0, 7.2, 8.4][: len(times)], abs=0.01)
    assert len(times) == 7
    assert waiting == []


def test_a_turn_given_to_a_task_cancelled_in_the_same_moment_goes_to_the_next():
    async def main(clock):
        log = Log(drained(clock))
        doomed = asyncio.create_task(log.take(STATUS))
        heir = asyncio.create_task(log.take(STATUS))
        await clock.sleep(0.5)
        log.governor._tokens = 1.0
        log.governor._pump()
        doomed.cancel()
        await heir
        return log.given, doomed.cancelled()

    assert virtual_time.run(main) == ([(0.5, STATUS)], True)


def test_a_job_that_dies_gives_its_place_back():
    async def main(clock):
        governor = Governor(in_flight=1, clock=clock)
        with pytest.raises(ValueError, match="boom"):
            async with governor.job():
                raise ValueError("boom")
        async with governor.job():
            return clock.monotonic()

    assert virtual_time.run(main) == 0.0


# --- the breaker


async def fail(governor, *, host=API):
    async with governor.turn(STATUS, host=host) as turn:
        turn.unreachable()


def test_after_five_connect_failures_one_probe_every_five_seconds():
    async def main(clock):
        governor, tries = Governor(burst=8, clock=clock), []
        up_at = 23.0  # seconds

        async def persist(_):
            while True:
                async with governor.turn(STATUS, host=API) as turn:
                    tries.append(clock.monotonic())
                    await clock.sleep(0.01)
                    if clock.monotonic() >= up_at:
                        return
                    turn.unreachable()

        await asyncio.gather(*map(persist, range(8)))
        return tries

    tries = virtual_time.run(main)
    down = [at for at in tries if at < 23.0]
    assert down[:8] == [0.0] * 8  # all eight went together, before any had failed
    assert down[8:] == pytest.approx([5.01, 10.02, 15.03, 20.04])  # 5 s after the last one ended
    assert tries[12:] == pytest.approx([25.05] + [25.06] * 7)


def test_a_hanging_probe_stays_the_only_one():
    async def main(clock):
        governor = Governor(clock=clock)
        for _ in range(5):
            await fail(governor)
        log = Log(governor)

        async def hang():
            async with governor.turn(STATUS, host=API):
                log.given.append((clock.monotonic(), "probe"))
                await clock.sleep(30.0)
                raise httpx.ConnectTimeout("no")

        probe = asyncio.create_task(hang())
        await clock.sleep(0.1)
        other = asyncio.create_task(log.take(STATUS))
        with pytest.raises(httpx.ConnectTimeout):
            await probe
        await other
        return [at for at, _ in log.given]

    assert virtual_time.run(main) == pytest.approx([5.0, 40.0], abs=0.01)


def test_one_host_down_does_not_stop_the_others():
    async def main(clock):
        governor = Governor(clock=clock)
        for _ in range(5):
            await fail(governor, host="storage")
        log = Log(governor)
        await asyncio.gather(log.take(RESULT, host="storage"), log.take(STATUS))
        return log.given

    assert virtual_time.run(main) == [(0.0, STATUS), (pytest.approx(5.0, abs=0.01), RESULT)]


@pytest.mark.parametrize("outcome", ["answered", "read error"])
def test_only_connect_failures_in_a_row_open_it(outcome):
    async def main(clock):
        governor = Governor(burst=40, clock=clock)
        for _ in range(3):
            for _ in range(4):
                await fail(governor)
            try:
                async with governor.turn(STATUS, host=API):
                    if outcome == "read error":
                        raise httpx.ReadError("reset")
            except httpx.ReadError:
                pass
        return clock.monotonic()

    assert virtual_time.run(main) == 0.0


@pytest.mark.parametrize("end", ["cancelled", "no free connection"])
def test_a_probe_that_learned_nothing_is_followed_by_another_five_seconds_later(end):
    async def main(clock):
        governor, tries = Governor(clock=clock), []
        for _ in range(5):
            await fail(governor)

        async def probe():
            async with governor.turn(STATUS, host=API):
                tries.append(clock.monotonic())
                if end == "no free connection":
                    raise httpx.PoolTimeout("busy")
                await clock.sleep(60.0)

        first = asyncio.create_task(probe())
        others = [asyncio.create_task(Log(governor).take(STATUS)) for _ in range(3)]
        await clock.sleep(6.0)
        first.cancel()
        await asyncio.sleep(0)
        now = clock.monotonic()
        await asyncio.gather(first, *others, return_exceptions=True)
        return tries, now, clock.monotonic()

    tries, cancelled, done = virtual_time.run(main)
    assert tries == pytest.approx([5.0])
    assert done == pytest.approx((cancelled if end == "cancelled" else 5.0) + 5.0, abs=0.01)


def test_httpx_connect_errors_count_by_themselves():
    async def main(clock):
        governor = Governor(clock=clock)
        for _ in range(5):
            with pytest.raises(httpx.ConnectError):
                async with governor.turn(STATUS, host=API):
                    raise httpx.ConnectError("refused")
        async with governor.turn(STATUS, host=API):
            return clock.monotonic()

    assert virtual_time.run(main) == pytest.approx(5.0, abs=0.01)


def test_the_system_clock_moves():
    async def main():
        governor = Governor(per_minute=6000, burst=1)
        before = governor.clock.wall()
        for _ in range(3):
            async with governor.turn(STATUS):
                pass
        return governor.clock.wall() - before

    assert 0.015 < asyncio.run(main()) < 2.0
