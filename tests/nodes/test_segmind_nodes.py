"""Segmind Remote and Segmind Jobs in the real host's modules: what they pass on, say, refuse and let out."""

import asyncio
import inspect
import json
import logging
import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from fake_segmind import Behaviour, FakeSegmind, Settings
from host.graphs import REMOTE_WIDGETS
from klein9b.remote.images import decode
from segmind_host import environment, forget_key, remember_jobs, write_key
from standins.greys import FINE, FLOATS, LEVELS, ROUNDING, grey

WIDGETS = {**REMOTE_WIDGETS, "prompt": "a red fox", "negative_prompt": "blurry", "timeout_s": 60}


@pytest.fixture(scope="module")
def node(comfy_host):
    """The class that the host would run, under an id of the graph."""
    from klein9b.nodes.segmind_remote import SegmindRemote

    class Running(SegmindRemote):
        hidden = SimpleNamespace(unique_id="1")

    return Running


@pytest.fixture(scope="module")
def segmind():
    with FakeSegmind(settings=Settings(pixels=32 * 32)) as running:
        yield running


@pytest.fixture(scope="module")
def base(comfy_host, segmind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfy")
    write_key(folder, segmind.key)
    remember_jobs(folder, seconds=0.05)
    return folder


@pytest.fixture
def account(base, segmind, monkeypatch):
    """The host's folders and the fake's addresses, as the nodes find them."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(base / "user"))
    monkeypatch.delenv("SEGMIND_API_KEY", raising=False)
    for name, value in environment(segmind).items():
        monkeypatch.setenv(name, value)


class Texts(list):
    def __init__(self):
        super().__init__()
        self.moved = []


@pytest.fixture
def shown(monkeypatch):
    """Every text put on the node, and in `moved` every part that its bar was moved to."""
    from klein9b.nodes import segmind_remote

    texts = Texts()
    monkeypatch.setattr(segmind_remote, "show_text", lambda node, text: texts.append(text))
    monkeypatch.setattr(segmind_remote, "move_bar", lambda node, part: texts.moved.append(part))
    return texts


def run(node, images=None, **changes):
    return asyncio.run(node.execute(**WIDGETS | changes, images=images))


class TestSchema:
    def test_its_inputs_are_the_hosted_models_parameters(self, node):
        from klein9b.remote.request import KleinRequest

        ours = {one.id: getattr(one, "default", None) for one in node.define_schema().inputs}
        page = {field.name: field.default for field in fields(KleinRequest)} | {"image_urls": "", "seed": 3425234}
        assert set(page) <= set(ours)
        assert all(ours[name] == value for name, value in page.items() if name != "prompt")

    def test_it_is_no_partner_node(self, node):
        """Those ask for a Comfy login and show its prices."""
        schema = node.define_schema()
        assert not schema.is_api_node and not schema.is_output_node
        assert [one.display_name for one in schema.outputs] == ["image", "mask", "receipt", "seed"]

    def test_it_says_what_leaves_and_what_it_costs(self, node):
        said = node.define_schema().description
        assert all(word in said for word in ("public", "unlisted", "permanent", "$0.04"))

    def test_execute_takes_what_the_schema_names(self, node):
        asked = {one.id for one in node.define_schema().inputs}
        assert asked == set(inspect.signature(node.execute).parameters)

    def test_nothing_is_read_before_a_run(self, node, monkeypatch):
        import folder_paths

        from klein9b.remote import keys

        monkeypatch.setattr(folder_paths, "get_user_directory", None)
        monkeypatch.setattr(keys.Path, "open", None)
        monkeypatch.setattr(keys, "Hosts", None)
        assert node.define_schema() and node.GET_SCHEMA()


class TestPrice:
    """What stands on the node before Run, and what the receipt calls its estimate."""

    @pytest.fixture
    def elsewhere(self, account, segmind, monkeypatch, tmp_path):
        """A ComfyUI folder of its own, with a key."""
        import folder_paths

        monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
        write_key(tmp_path, segmind.key)
        return tmp_path

    def said(self, node):
        badge = node.GET_NODE_INFO_V1()["price_badge"]
        return json.loads(badge["expr"])["text"]

    def test_it_is_the_published_average_before_the_first_job_and_makes_no_journal(self, node, elsewhere, segmind):
        before = len(segmind.requests)
        assert self.said(node) == "about $0.0402 a picture"
        assert [one.name for one in (elsewhere / "user" / "__segmind").iterdir()] == ["segmind.key"]
        assert len(segmind.requests) == before

    def test_it_is_the_dearest_of_the_last_jobs_and_so_is_the_receipts_estimate(self, node, elsewhere, segmind):
        remember_jobs(elsewhere, seconds=0.05, cost_usd=0.0514)
        assert self.said(node) == "about $0.0514 a picture"
        told = json.loads(run(node, prompt="an estimate").args[2])
        assert told["estimate_usd"] == pytest.approx(0.0514) and told["cost_usd"] == pytest.approx(0.0402)
        assert self.said(node) == "about $0.0514 a picture", "one of the last twenty still cost that"

    def test_it_is_no_partner_nodes(self, node, elsewhere):
        """The frontend locks those behind a Comfy account; so price.js draws it."""
        info = node.GET_NODE_INFO_V1()
        assert not info["api_node"] and info["price_badge"]["depends_on"]["widgets"] == []

    def test_nothing_but_the_journal_is_read_for_it(self, node, elsewhere, monkeypatch):
        from klein9b.remote import keys

        monkeypatch.setattr(keys.Path, "open", None)
        monkeypatch.setattr(keys, "Hosts", None)
        assert self.said(node)


class TestRun:
    def test_a_picture_a_mask_a_receipt_and_its_seed(self, node, account, segmind, shown):
        image, mask, text, seed = run(node, prompt="a whole run").args
        assert image.shape == (1, 32, 32, 3) and mask.shape == (1, 32, 32)
        assert 0.0 <= float(image.min()) < float(image.max()) <= 1.0 and float(mask.max()) == 0.0
        told = json.loads(text)
        assert told["seed"] == seed == 7 and told["request_id"] == segmind.jobs[-1].request_id
        assert segmind.key not in text
        assert shown[-1].startswith("Seed 7, $0.0402") and "left" in shown[-1]

    def test_its_bar_moves_while_it_waits(self, node, account, segmind, shown):
        segmind.behave(Behaviour(run_seconds=2.4))
        run(node, prompt="the bar moves")
        assert len(shown.moved) >= 2 and shown.moved == sorted(shown.moved) and shown.moved[-1] <= 1.0

    def test_what_is_sent_is_what_the_widgets_say(self, node, account, segmind):
        asked = {"cfg": 7.5, "sampler": "res_2s", "aspect_ratio": "16:9", "image_format": "webp", "go_fast": False}
        run(node, prompt="what is sent", **asked)
        body = segmind.jobs[-1].body
        assert {name: body[name] for name in asked} == asked and body["seed"] == 7
        assert "image_urls" not in body

    @pytest.mark.parametrize("dtypes", [FLOATS, LEVELS], ids=["floats", "levels"])
    def test_a_picture_of_any_dtype_is_uploaded_as_it_is(self, node, account, segmind, dtypes):
        images = {f"image_{i + 1}": grey(dtype, side=8) for i, dtype in enumerate(dtypes)}
        run(node, prompt=f"greys as {dtypes}", images=images)
        urls = segmind.jobs[-1].body["image_urls"]
        for dtype, url in zip(dtypes, urls, strict=True):
            uploaded = decode(segmind.service.fetch(url)).image
            assert uploaded.shape == (8, 8, 3)
            assert abs(uploaded - 0.25).max() <= 1 / 255 + ROUNDING.get(dtype, FINE), dtype

    def test_100_megapixels_are_refused_before_anything_is_sent(self, node, account, segmind):
        before = len(segmind.requests)
        huge = torch.zeros(1, 1, 1, 3).expand(1, 10001, 10000, 3)
        with pytest.raises(Exception, match="100 megapixels.*Nothing was sent"):
            run(node, prompt="huge", images={"image_1": huge})
        assert len(segmind.requests) == before

    def test_more_than_ten_frames_are_refused_before_anything_is_sent(self, node, account, segmind):
        before = len(segmind.requests)
        images = {"image_2": torch.zeros(3, 8, 8, 3), "image_1": torch.zeros(7, 8, 8, 3), "image_3": None}
        with pytest.raises(Exception, match="11 reference images .7 from image_1, 3 from image_2, 1 from image_urls"):
            run(node, prompt="many", images=images, image_urls="https://example.com/a.png")
        assert len(segmind.requests) == before

    def test_nan_is_refused_before_anything_is_sent(self, node, account, segmind):
        before = len(segmind.requests)
        with pytest.raises(Exception, match="image_1: The image holds NaN.*Nothing was sent and nothing was charged"):
            run(node, prompt="odd", images={"image_1": torch.full((1, 64, 64, 3), math.nan)})
        assert len(segmind.requests) == before

    def test_a_key_in_any_text_stops_it(self, node, account, segmind):
        before = len(segmind.requests)
        for name in ("prompt", "negative_prompt", "image_urls"):
            with pytest.raises(Exception, match=f"The input {name} holds what looks like a Segmind API key"):
                run(node, **{name: f"see {segmind.key}"})
        assert len(segmind.requests) == before

    def test_the_folder_and_its_files_are_private(self, node, account, base):
        run(node, prompt="private")
        folder = base / "user" / "__segmind"
        for path in (folder / "segmind.key", folder / "jobs.sqlite", *(folder / "results").glob("*.png")):
            assert path.stat().st_mode & 0o077 == 0, path


class TestEnds:
    """What may come out of the node when it does not come to its end."""

    @pytest.fixture
    def lane_ends(self, account, monkeypatch):
        from klein9b.remote import service

        def make(error):
            async def ending(*_, **__):
                raise error

            monkeypatch.setattr(service, "run", ending)

        return make

    def test_a_cancellation_never_gets_out(self, node, lane_ends, shown):
        """The host's prompt thread does not survive one."""
        lane_ends(asyncio.CancelledError())
        assert "Segmind has no cancel" in run(node).block_execution
        assert "its picture is kept for you" in shown[-1]

    def test_an_interrupt_is_the_hosts_own(self, node, lane_ends, shown):
        from comfy.model_management import (
            InterruptProcessingException,
            interrupt_current_processing,
            processing_interrupted,
        )

        from klein9b.remote.errors import Interrupted

        lane_ends(Interrupted("You stopped waiting for r1", "It is charged", "Run again"))
        interrupt_current_processing(True)
        try:
            with pytest.raises(InterruptProcessingException):
                run(node)
            assert processing_interrupted(), "other nodes of the graph must see it too"
        finally:
            interrupt_current_processing(False)
        assert shown[-1] == "You stopped waiting for r1. It is charged. Run again."

    def test_the_person_is_told_in_the_log_too(self, node, lane_ends, caplog):
        from comfy.model_management import InterruptProcessingException

        from klein9b.remote.errors import Interrupted

        lane_ends(Interrupted("You stopped waiting for r1", "It is charged", "Run again"))
        with caplog.at_level(logging.WARNING), pytest.raises(InterruptProcessingException):
            run(node)
        assert "You stopped waiting for r1" in caplog.text

    def test_the_log_never_holds_a_key(self, comfy_host, caplog):
        from klein9b.nodes.host.account import log

        with caplog.at_level(logging.WARNING):
            log.warning("the key is %s", "SG_" + "0123456789abcdef")
        assert "SG_" + "0123456789abcdef" not in caplog.text and "[key removed]" in caplog.text


class TestHostCache:
    def test_a_rerun_is_the_hosts_to_answer(self, node):
        assert node.fingerprint_inputs(**WIDGETS) == node.fingerprint_inputs(**WIDGETS)

    def test_always_new_runs_every_time(self, node):
        asked = WIDGETS | {"reuse": "always_new"}
        assert node.fingerprint_inputs(**asked) != node.fingerprint_inputs(**asked)

    def test_a_run_with_gaps_runs_again_and_a_whole_one_does_not(self, node, account, segmind):
        from fake_segmind import Behaviour

        asked = {"prompt": "gaps", "count": 2, "on_item_error": "skip"}
        before = node.fingerprint_inputs(**WIDGETS | asked)
        segmind.behave(Behaviour(error="CUDA out of memory"))
        assert run(node, **asked).args[0].shape[0] == 1
        after = node.fingerprint_inputs(**WIDGETS | asked)
        assert after != before
        assert run(node, **asked).args[0].shape[0] == 2
        assert node.fingerprint_inputs(**WIDGETS | asked) == after


class TestJobsNode:
    def test_an_age_a_cost_and_a_note(self, comfy_host):
        from klein9b.nodes.segmind_jobs import _line
        from klein9b.remote.rows import Row

        names = {field.name: None for field in fields(Row)}
        row = Row(**names | {"state": "FAILED", "created_at": 1000.0, "prompt_start": "a\nfox", "note": "no memory"})
        assert _line(row, 1090.0) == "FAILED | 2 min ago | cost unknown | no request_id | a fox (no memory)"

    def test_a_key_is_refused_before_it_is_queued(self, comfy_host):
        from klein9b.nodes.segmind_jobs import SegmindJobs

        refused = SegmindJobs.validate_inputs(request_id="SG_" + "0123456789abcdef")
        assert isinstance(refused, str) and "0123456789abcdef" not in refused
        assert SegmindJobs.validate_inputs(request_id="request-1") is True
        assert SegmindJobs.validate_inputs() is True, "it is linked"

    @pytest.fixture
    def jobs(self, account, monkeypatch):
        from klein9b.nodes import segmind_jobs

        monkeypatch.setattr(segmind_jobs, "show_text", lambda node, text: None)
        return lambda request_id="": asyncio.run(segmind_jobs.SegmindJobs.execute(request_id=request_id, limit=500))

    def test_a_kept_picture_is_shown_without_a_key_and_any_other_asks_for_one(
        self, jobs, node, account, base, segmind, shown
    ):
        paid = run(node, prompt="shown without a key")
        request_id = json.loads(paid.args[2])["request_id"]
        before = len(segmind.requests)
        forget_key(base)
        try:
            image, _, text = jobs(request_id).args
            with pytest.raises(Exception, match="No Segmind API key"):
                jobs("another-request")
        finally:
            write_key(base, segmind.key)
        assert torch.equal(image, paid.args[0])
        assert "Balance: not known. No Segmind API key" in text and request_id in text
        assert len(segmind.requests) == before

    def test_a_lost_journal_is_told_and_its_pictures_are_listed_by_their_hash(self, jobs, account, base, monkeypatch):
        import folder_paths

        from klein9b.remote.vault import Vault

        elsewhere = base / "elsewhere"
        monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(elsewhere / "user"))
        picture = (base / "user" / "__segmind" / "results").glob("*.png")
        kept = Vault(elsewhere / "user" / "__segmind" / "results").put(next(picture).read_bytes(), "image/png")
        image, _, text = jobs(kept.sha256).args
        assert image.shape[0] == 1 and f"picture {kept.sha256} | prompt not known here" in text
        assert "The job journal was lost, in whole or in part" in text

    def test_cancel_is_heard_while_segmind_does_not_answer(self, comfy_host, account):
        import time

        from comfy.model_management import InterruptProcessingException, interrupt_current_processing

        from klein9b.nodes.host.account import cancel_button
        from klein9b.nodes.segmind_jobs import _interruptible

        interrupt_current_processing(True)
        try:
            began = time.monotonic()
            with pytest.raises(InterruptProcessingException):
                asyncio.run(_interruptible(asyncio.sleep(30), cancel_button()))
            assert time.monotonic() - began < 0.5
        finally:
            interrupt_current_processing(False)
