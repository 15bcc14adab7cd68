"""What is on disk of a run that was cut off, and what is made of it."""

import pytest

from gpu.cells import BF16, DISTILLED, FAST, INT8, KV, STOCK, WARM, counted
from gpu.report import render
from gpu.results import Results, of_kind
from gpu.verdicts import MET, MISSED, NOT_MEASURED, verdicts


def way(precision, kind, picture, peak=None, step=None):
    numbers = {"picture": picture, "first": picture / 4, "step": step or picture / 4, "spread": 0.0}
    rest = {"steps timed": 24, "peak": peak, "compiling": None, "left to the host": "", "streamed": 0}
    return {"precision": precision, "way": kind, **numbers, **rest}


def cell(*ways, references=0, noise=0.004):
    about = {"cell": f"a cell of {references}", "side": 1024, "references": references, "mode": DISTILLED}
    return {
        **about,
        "rounds": 6,
        "noise": noise,
        "flops": 75_500_000_000_000,
        "ways": list(ways),
        "notes": [],
        "failed": [],
    }


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path / "benchmarks" / "card.jsonl")
    results.add("run", card="A card", dry=False, minutes=25)
    return results


def test_what_is_added_is_read(results):
    results.add("cell", **cell(way(BF16, STOCK, 0.4)))
    assert [record["kind"] for record in results.last_run()] == ["run", "cell"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_cut_short_costs_that_line_alone(results, cut):
    results.add("cell", **cell(way(BF16, STOCK, 0.4), way(BF16, FAST, 0.3)))
    results.add("cell", **cell(way(INT8, STOCK, 0.2), references=2))
    whole = results.path.read_bytes()
    results.path.write_bytes(whole[:-cut])
    assert len(of_kind(results.last_run(), "cell")) == (1 if cut > 1 else 2)
    assert "1.333x" in render(results.path)
    results.add("path", name="a check", passed=True, found="equal bits")
    assert of_kind(results.last_run(), "path"), "what comes next is on a line of its own"


def test_only_the_last_run_counts_and_none_is_lost(results):
    results.add("cell", **cell(way(BF16, STOCK, 0.4)))
    results.add("run", card="A card", dry=False, minutes=25)
    assert not of_kind(results.last_run(), "cell")
    assert results.path.read_text().count('"cell"') > 0


def test_a_run_cut_off_at_once_has_a_table(results):
    text = render(results.path)
    assert "# A card" in text and NOT_MEASURED in text and MET not in text.split()


def said(records):
    return {one.target: one.said for one in verdicts(records)}


def test_targets_are_met_missed_or_not_measured(results):
    results.add("cell", **cell(way(BF16, STOCK, 0.45, 1000), way(BF16, FAST, 0.40, 590)))
    results.add("cell", **cell(way(INT8, STOCK, 0.30), way(INT8, FAST, 0.26)))
    found = said(results.last_run())
    assert found["bf16, no references: accelerated against stock"] == MET
    assert found["int8, no references: accelerated against stock"] == MISSED
    assert found["activation peak saved, bf16, 0 references"] == MET
    assert found["int8 accelerated against stock bf16, no references"] == NOT_MEASURED, "they were never in one cell"


def test_a_ratio_is_of_one_cell(results):
    results.add("cell", **cell(way(BF16, STOCK, 0.44), way(INT8, FAST, 0.20)))
    found = said(results.last_run())
    assert found["int8 accelerated against stock bf16, no references"] == MET
    assert found["int8, no references: accelerated against stock"] == NOT_MEASURED


def test_the_cache_is_compared_at_each_count(results):
    for references, kv in ((1, 0.6), (2, 0.6), (4, 0.6)):
        results.add("cell", **cell(way(BF16, KV, kv), way(BF16, WARM, 0.4), references=references))
    found = said(results.last_run())
    assert [found[f"bf16, {counted(n)}: warm cache against FluxKVCache"] for n in (1, 2, 4)] == [MET, MET, MISSED]


def test_utilisation_is_all_flop_over_time_in_parts_of_the_plain_rate(results):
    results.add("cell", **cell(way(BF16, STOCK, 0.5), way(BF16, FAST, 0.4, step=0.1)))
    results.add("products", precision=BF16, rate=1000e12, seconds=0.1, flops=1, shapes=[])
    value = next(one.value for one in verdicts(results.last_run()) if one.target.startswith("bf16: rate"))
    assert value == pytest.approx(0.755)


def test_a_missed_target_says_where_the_time_is(results):
    results.add("cell", **cell(way(BF16, STOCK, 0.40), way(BF16, FAST, 0.40)))
    times = {"matrix products": 60.0, "attention": 20.0, "gaps": 20.0}
    found = {"ms": times, "launches": 300, "kernels": [], "predicted_elementwise_ms": 8.0}
    results.add("buckets", precision=BF16, way=FAST, **found)
    text = render(results.path)
    assert "matrix products 60%, attention 20%, gaps 20%" in text


def test_what_failed_and_what_was_left_out_is_in_the_table(results):
    broken = cell(way(BF16, STOCK, 0.4)) | {"failed": [{"precision": BF16, "way": FAST, "why": "no luck"}]}
    results.add("cell", **broken)
    results.add("left out", what="a stage", why="its time was over")
    results.add("parity", op="rope", backend="triton", exact=True, dtype="bfloat16", error="it did not compile")
    text = render(results.path)
    assert "failed: no luck" in text and "a stage: its time was over" in text and "FAILED: it did not compile" in text
