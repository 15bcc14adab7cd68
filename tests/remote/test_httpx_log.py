"""httpx's line per request: ours are not on the console, everybody else's are."""

import asyncio
import logging

import httpx
from lanes import request, run

from klein9b.remote.client import Client
from klein9b.remote.keys import Hosts, Key


def said_by_httpx(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "httpx"]


def test_a_whole_job_says_nothing(fake, lane, caplog):
    with caplog.at_level(logging.INFO):
        run(lane, request())
    assert fake.requests and said_by_httpx(caplog) == []


def slow(seconds):
    async def answer(request):
        await asyncio.sleep(seconds)
        return httpx.Response(200, content=body())

    async def body():
        yield b'{"credits": 1.0}'

    return httpx.MockTransport(answer)


def test_another_clients_line_stays_even_at_the_same_moment_and_to_the_same_host(caplog):
    """Both are on their way together, the other one begun before ours and ended after it."""

    async def both():
        ours = Client(Hosts(), Key("key-for-tests"), transport=slow(0.05))
        async with httpx.AsyncClient(transport=slow(0.1)) as others:
            theirs = asyncio.ensure_future(others.get("https://api.segmind.com/v1/theirs"))
            await asyncio.sleep(0.01)
            await ours.credits()
            await theirs
            await others.get("https://api.segmind.com/v1/later")
        await ours.aclose()

    with caplog.at_level(logging.INFO):
        asyncio.run(both())
    assert [line.split()[3] for line in said_by_httpx(caplog)] == [
        "https://api.segmind.com/v1/theirs",
        "https://api.segmind.com/v1/later",
    ]


def test_what_is_worse_than_information_is_heard_and_no_level_is_changed(fake, lane, caplog, monkeypatch):
    logger = logging.getLogger("httpx")
    before = logger.level, logger.disabled, logger.propagate, list(logger.handlers)
    real = httpx.AsyncClient.send

    async def send(self, *args, **kwargs):
        logger.warning("something is wrong")
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    with caplog.at_level(logging.INFO):
        asyncio.run(lane.balance())
    assert said_by_httpx(caplog) == ["something is wrong"]
    assert before == (logger.level, logger.disabled, logger.propagate, list(logger.handlers))
