"""What a Segmind node says while it waits, and when it is done."""

import pytest


class TestTexts:
    def job(self, state, waited=0.0, number=1, reused=False, cost=None):
        from klein9b.remote.protocol import Metrics
        from klein9b.remote.values import Progress

        return Progress(number, state, waited, 13.6, "r1", Metrics(cost), reused)

    def heard(self, *told, count=1):
        from klein9b.nodes.host.progress import Waiting

        texts = []
        waiting = Waiting(texts.append, count)
        for jobs in told:
            waiting.hear(jobs)
        return texts

    def test_one_job_from_the_queue_to_the_end(self, comfy_host):
        told = [[None], [self.job("UPLOADING", 0.4)], [self.job("QUEUED", 1.0)], [self.job("QUEUED", 4.0)]]
        told += [[self.job("PROCESSING", 6.0)], [self.job("COMPLETED", 14.2)]]
        assert self.heard(*told) == [
            "Preparing. 0 s, about $0.04.",
            "Uploading the images. 0 s of about 14 s, about $0.04.",
            "In Segmind's queue for 0 s. 1 s of about 14 s, about $0.04.",
            "In Segmind's queue for 3 s. 4 s of about 14 s, about $0.04.",
            "Being made, after 3 s in the queue. 6 s of about 14 s, about $0.04.",
            "Fetching the picture, after 3 s in the queue. 14 s of about 14 s, about $0.04.",
        ]

    def moved(self, *told, count=1):
        from klein9b.nodes.host.progress import Waiting

        parts = []
        waiting = Waiting(lambda text: None, count, parts.append)
        for jobs in told:
            waiting.hear(jobs)
        return parts

    def test_the_bar_moves_with_the_expected_time_and_is_full_when_the_picture_is_here(self, comfy_host):
        states = ["PLANNED", "QUEUED", "PROCESSING", "PROCESSING", "PROCESSING", "KEPT"]
        told = [[self.job(state, waited)] for state, waited in zip(states, [0.0, 3.4, 6.8, 13.6, 27.2, 27.9])]
        assert self.moved([None], *told) == pytest.approx([0.225, 0.45, 0.9, 0.95, 1.0])

    def test_the_bar_never_goes_back_and_moves_only_where_it_can_be_seen(self, comfy_host):
        waited = [i / 100 for i in range(1360)] + [5.0]  # and a job that is seen to have waited less
        parts = self.moved(*([self.job("PROCESSING", seconds)] for seconds in waited))
        assert parts == sorted(parts) and len(parts) <= 90

    def test_the_bar_of_several_jobs_is_their_mean(self, comfy_host):
        early = [self.job("QUEUED", 0.0, 1), self.job("QUEUED", 0.0, 2), None, None]
        later = [self.job("KEPT", 6.8, 1), self.job("PROCESSING", 6.8, 2), None, None]
        assert self.moved(early, later, count=4) == [pytest.approx((1 + 0.45) / 4)]

    def test_a_job_that_waits_to_be_sent_moves_nothing(self, comfy_host):
        told = [("PLANNED", 6.8), ("UPLOADING", 13.6), ("SUBMITTING", 14.0)]
        assert self.moved(*([self.job(*one)] for one in told)) == []
        told.append(("PROCESSING", 14.0 + 6.8))
        assert self.moved(*([self.job(*one)] for one in told)) == [pytest.approx(0.45)]

    def test_the_bar_is_the_hosts(self, comfy_host):
        from types import SimpleNamespace

        from comfy_execution.progress import get_progress_state

        from klein9b.nodes.host.progress import move_bar

        move_bar(SimpleNamespace(hidden=SimpleNamespace(unique_id="41")), 0.25)
        assert get_progress_state().nodes["41"]["value"] == 25 and get_progress_state().nodes["41"]["max"] == 100

    def test_the_price_is_the_accounts_own_estimate(self, comfy_host):
        from dataclasses import replace

        assert self.heard([replace(self.job("PROCESSING"), estimate_usd=0.0514)]) == [
            "Being made. 0 s of about 14 s, about $0.05."
        ]

    def test_it_speaks_once_a_second(self, comfy_host):
        assert len(self.heard(*([self.job("PROCESSING", i / 10)] for i in range(30)))) <= 4

    def test_several_jobs_are_counted(self, comfy_host):
        done = [self.job("KEPT", 9, 1, cost=0.0402), self.job("KEPT", 9, 2, reused=True)]
        assert self.heard([*done, self.job("QUEUED", 9, 3), None], count=4) == [
            "2 of 4 done, 1 in Segmind's queue. 9 s of about 14 s, $0.0402 so far, about $0.12 in all."
        ]

    def test_a_state_nobody_knows_is_shown_as_it_is(self, comfy_host):
        assert self.heard([self.job("WARMING_UP", 3.0)])[0].startswith("WARMING_UP. 3 s")

    def receipt(self, **changes):
        told = {"request_id": "r1", "seed": 7, "cost_usd": 0.0402, "remaining_usd": 9.5, "queue_seconds": 2.0}
        told |= {"inference_seconds": 13.06, "reused": False, "note": "", "uploads": []}
        return told | changes

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, "Seed 7, $0.0402, 2.0 s in the queue, 13.1 s to make, request r1, $9.50 left"),
            ({"cost_usd": None, "remaining_usd": None}, "Seed 7, cost not reported, 2.0 s in the queue"),
            ({"reused": True}, "Seed 7, kept from before: nothing paid, 2.0 s in the queue"),
            ({"uploads": ["image 2: scaled from 4000x4000 to 2048x2048"]}, "\nimage 2: scaled from 4000x4000"),
        ],
    )
    def test_the_last_word(self, comfy_host, changes, words):
        from klein9b.nodes.host.progress import finished

        assert words in finished([self.receipt(**changes)], [])

    def test_the_last_word_on_a_batch(self, comfy_host):
        from klein9b.nodes.host.progress import finished

        receipts = [self.receipt(), self.receipt(reused=True), self.receipt(cost_usd=None, remaining_usd=9.4)]
        left_out = "No picture for seed 9: it failed."
        assert finished(receipts, [left_out]) == (
            f"3 pictures, $0.0402 and 1 of unknown cost, 1 kept from before, $9.40 left\n{left_out}"
        )
