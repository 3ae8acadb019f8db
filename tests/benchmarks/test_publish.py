"""The docs' tables are what the result files give, and writing them twice changes nothing."""

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.engines.rows import PresetRow
from skipcache.benchmarks.engines.tables import engines
from skipcache.benchmarks.peers.rows import Row
from skipcache.benchmarks.publish.docs import DOCS, fill, publish, read_bench, read_results
from skipcache.benchmarks.publish.peers import HEADLINE, full, headline, summary
from skipcache.benchmarks.publish.studies import bench_full, bench_predictors

ROOT = Path(__file__).parents[2]


def result(model="dit-digits", scheduler="ddim"):
    rows = [
        Row("", "plain, 50 steps", "", None, blocks=600, speedup=1.0, flop_speedup=1.0),
        Row("skipcache", "skipcache, calibrated", "skipcache", 2.2, lines=2, speedup=2.1, psnr=45.74, psnr_error=0.35),
        Row("pab", "PAB", "diffusers", 2.2, "attention alone", lines=5, speedup=1.2, psnr=50.0, psnr_error=0.5),
        Row("scm", "SCM", "cache-dit", 2.2, error="ValueError: not supported"),
    ]
    rows[2].over_budget, rows[2].flop_speedup = True, 1.25
    settings = {"model": model, "scheduler": scheduler, "steps": 50, "seeds": [0], "guidance": 3.0, "targets": [2.2]}
    facts = {"device": {"name": "cpu", "threads": 2}, "images": 4, "blocks": 12, "parameters": 2e6, "command": "x"}
    return {"settings": settings, **facts, "rows": [asdict(row) for row in rows]}


@pytest.mark.parametrize("name", DOCS)
def test_the_docs_tables_are_those_of_the_result_files(name):
    text = (ROOT / name).read_text()
    assert "<!-- table:" in text
    assert fill(text, ROOT) == text, "run `skipcache publish`"


def test_pictures_of_the_docs_are_there():
    for found in read_results(ROOT):
        name = f"peers-{found['settings']['model']}-{found['settings']['scheduler']}"
        assert (ROOT / "docs" / "images" / f"{name}.png").is_file()


def test_the_headline():
    sampler = HEADLINE[0]
    shown = [result(scheduler=sampler), result("pixart-shapes", sampler), result(scheduler="ddpm")]
    lines = headline(shown).splitlines()
    assert lines[0] == "|  | speedup | `dit-digits`, PSNR dB | speedup | `pixart-shapes`, PSNR dB | lines |"
    assert lines[2] == "| **skipcache, calibrated** | 2.10x | 45.7 ± 0.3 | 2.10x | 45.7 ± 0.3 | 2 |"
    assert lines[3].startswith("| PAB (diffusers) | 1.20x | 50.0 ± 0.5 (at 1.25x FLOPs) |")
    assert lines[4] == "| SCM (cache-dit) | - | does not run | - | does not run | - |"


@pytest.mark.parametrize("write", [bench_full, bench_predictors])
def test_each_model_of_the_bench_has_a_table_of_its_own(write):
    found = read_bench(ROOT)[0]
    other = {**found, "settings": {**found["settings"], "model": "latte-digits"}, "beside": []}
    tables = write([found, other])
    assert tables == write([found]) + write([other])
    heads = [line.split(" | ")[0] for line in tables.split("\n\n") if line]
    assert heads == ["| dit-digits", "| latte-digits"]


def test_the_summary():
    found = result()
    peer = dict(found["rows"][2], label="FBCache", over_budget=False, psnr=41.0)
    steps = dict(peer, method="fewer-steps", library="", over_budget=True, psnr=38.0)
    hold = dict(peer, method="uniform-hold", library="skipcache", target=1.7, psnr=40.0)
    found["rows"] += [peer, steps, hold]
    lines = summary([found]).splitlines()
    assert lines[0].startswith("|  | calibrated | the best other cache | margin | fewer steps |")
    # What has more compute than ours does not count, but for the plain model with fewer steps.
    assert lines[2] == "| dit-digits, DDIM 50 | 45.7 | 41.0 | +4.7 | 38.0 | - | - | - | 40.0 |"
    assert summary([]) == "\n"


def test_the_full_table():
    text = full([result()])
    assert "### dit-digits, 50 DDIM steps" in text and "images/peers-dit-digits-ddim.png" in text
    assert "| 2.2x | skipcache, calibrated | 2.10x |" in text and "| 1.25x > |" in text
    assert "- PAB: attention alone." in text and "- SCM does not run: `ValueError: not supported`." in text


def test_the_engines():
    """Hooks and fx of one setting in a row; the others of a run below it."""
    rows = []
    for predictor in ("damped", "hold"):
        for engine, cached, over in (("hooks", 0.4, (1.0, 1.0)), ("fx", 0.2, (1.5, 2.5, 2.0))):
            numbers = {f.name: 1.0 for f in fields(PresetRow)}
            said = {"predictor": predictor, "interval": 3, "engine": engine, "cached_step": cached, "over_hooks": over}
            rows.append({**numbers, **said, "speedup": 2.0 if engine == "fx" else 1.6, "ideal": 2.2})
    found = {"settings": {"preset": "latte-digits", "keep": [0, 1]}, "device": {"name": "a cpu"}, "rows": rows}
    head, _, *lines = engines([found]).strip().splitlines()
    assert head.endswith("| hooks' cached step over fx's |") and len(lines) == 2
    cells = "| latte-digits, a cpu | Damped, keep=(0, 1); interval 3 | 1.60x / 2.00x | 2.20x / 2.20x |"
    assert lines[0] == f"{cells} 1.00 / 1.00 | 0.400 / 0.200 | 2.00 (1.50 to 2.50) |"
    assert "| Hold, keep=(0, 1); interval 3 |" in lines[1]
    assert engines([]) == "\n"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in DOCS:
        (tmp_path / name).write_text("before\n\n<!-- table: peers -->\nold\n<!-- end -->\n\nafter\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "peers.json").write_text(json.dumps(result(scheduler=HEADLINE[0])))
    shutil.copyfile(ROOT / "docs" / "images" / "fidelity.png", run / "frontier.png")
    return tmp_path


def test_publish_is_idempotent(checkout, capsys):
    arguments = ["publish", "--root", str(checkout)]
    assert main([*arguments, str(checkout / "run")]) == 0
    once = {name: (checkout / name).read_text() for name in DOCS}
    assert "old" not in once["README.md"] and once["README.md"].startswith("before\n\n<!-- table: peers -->\n|  |")
    assert once["README.md"].endswith("|\n\n<!-- end -->\n\nafter\n")
    assert (checkout / "docs" / "results" / f"peers-dit-digits-{HEADLINE[0]}.json").is_file()
    assert (checkout / "docs" / "images" / f"peers-dit-digits-{HEADLINE[0]}.png").is_file()
    assert main(arguments) == 0 and "nothing has changed" in capsys.readouterr().out
    assert {name: (checkout / name).read_text() for name in DOCS} == once


def test_what_publish_refuses(checkout, capsys):
    with pytest.raises(ValueError, match="expected peers"):
        publish([checkout / "docs"], checkout)
    with pytest.raises(ValueError, match=r"expected one of peers, peers-summary, .*, got 'speed'"):
        fill("<!-- table: speed -->\n<!-- end -->", checkout)
    assert main(["publish", "--root", str(checkout / "run")]) == 2
    assert "--root: expected a checkout with README.md" in capsys.readouterr().err
