"""`skipcache bench`: a small run makes all its outputs, and each interval has the rival that it should have."""

import json

import pytest
from matplotlib.image import imread

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.fidelity.variants import groups, rival_steps
from skipcache.benchmarks.options.bench import BenchSettings

SMALL = ["--steps", "10", "--batch", "3", "--seeds", "0", "1", "--intervals", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    assert main(["bench", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_bench_writes_results(out):
    results = json.loads((out / "results.json").read_text())
    rows = {row["label"]: row for row in results["rows"]}
    assert list(rows) == [
        "plain, 10 steps",
        "Interval(1)",
        "interval=3",
        "plain, 7 steps",
        "Interval(3), Hold",
        "Interval(3), Delta",
        "Interval(3), Forecast(1)",
        "Interval(3), Damped",
        "plain, 5 steps",
    ]
    assert rows["Interval(1)"]["exact"] and rows["Interval(1)"]["blocks"] == 10 * 12
    placed = rows["interval=3"]
    assert (
        (placed["full_steps"], placed["blocks"]) == (7, 7 * 12)
        and placed["placed"]
        and rows["plain, 7 steps"]["placed"]
    )
    assert any("7 of 10" in note for note in placed["notes"])
    hold = rows["Interval(3), Hold"]
    # Nothing reads the head under Hold, so that the fx engine leaves it out.
    assert (hold["full_steps"], hold["cached_steps"], hold["blocks"]) == (4, 6, 4 * 12 + 6 * 1)
    assert rows["Interval(3), Forecast(1)"]["blocks"] == 4 * 12 + 6 * 2
    assert hold["full_at"] == [0, 3, 6, 9] and len(hold["ratios"]) == 2
    assert hold["psnr"] > 0 and hold["cache_bytes"] == 6 * 16 * 88 * 4  # one hidden state: (batch, tokens, width)
    assert rows["Interval(3), Forecast(1)"]["cache_bytes"] == 2 * hold["cache_bytes"]
    # Two hidden states, and of each row how much of its slope came true.
    assert rows["Interval(3), Damped"]["cache_bytes"] == 2 * hold["cache_bytes"] + 6 * 4
    assert results["settings"]["seeds"] == [0, 1] and "torch" in results["versions"]
    assert results["images"] == 6
    labels = [row["label"] for row in results["beside"]]
    assert results["settings"]["beside"] == "dit-digits-skip" and labels == ["plain, 10 steps", "Interval(3), Hold"]
    # Its branch reads the head on every step.
    assert results["beside"][1]["blocks"] == 4 * 12 + 6 * 2 and not results["beside"][1]["exact"]


def test_bench_draws_both_pictures(out):
    for name in ("samples.png", "fidelity.png"):
        image = imread(out / name)
        assert min(image.shape[:2]) > 300 and image.std() > 0.01


def test_bench_prints_the_table(capsys, tmp_path):
    arguments = ["--steps", "4", "--batch", "2", "--seeds", "0", "--intervals", "2", "--predictor", "hold"]
    assert main(["bench", *arguments, "--scheduler", "ddpm", "--keep", "0", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for part in ("Interval(2), Hold", "of ideal", "steps that ran all blocks", "0 2", "Interval(1) costs"):
        assert part in printed


def once(steps: int) -> int:
    return steps


def heun(steps: int) -> int:
    return 2 * steps - 1


@pytest.mark.parametrize(("blocks", "steps"), [(350, 30), (270, 23), (230, 20), (200, 17), (204, 17), (205, 18)])
def test_the_rival_gets_at_least_the_block_evaluations(blocks, steps):
    """Interval(3): 17 full steps of 12 blocks, 33 of 2: 270 blocks, which is 22.5 plain steps."""
    assert rival_steps(blocks, 12, once) == steps


def test_the_rival_of_a_second_order_sampler():
    """99 calls, 33 of them full: 528 blocks are 44 calls, and 23 Heun steps make 45."""
    assert rival_steps(528, 12, heun) == 23


def test_what_people_type_and_the_paper_s_rule_are_groups_of_each_interval():
    settings = BenchSettings(intervals=(3, 1), predictors=("hold", "forecast"))
    labels = [[variant.label for variant in group] for group in groups(settings)]
    assert labels == [["Interval(1)"], ["interval=3"], ["Interval(3), Hold", "Interval(3), Forecast(1)"]]
