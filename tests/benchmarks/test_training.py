"""The trainer: resumed runs end with the same bits, and checkpoints are never half written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file
from torch import nn

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.references import train as train_command
from skipcache.benchmarks.references.dit_digits import data
from skipcache.benchmarks.training.checkpoint import resume, save
from skipcache.benchmarks.training.losses import denoising_loss
from skipcache.benchmarks.training.task import Recipe, Task, shortened
from skipcache.benchmarks.training.trainer import train
from skipcache.benchmarks.training.weights_file import read_settings


class Killed(Exception):
    pass


def tiny() -> nn.Module:
    return DiTTransformer2DModel(
        num_attention_heads=1,
        attention_head_dim=8,
        in_channels=1,
        out_channels=1,
        num_layers=2,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    ).eval()


@pytest.fixture
def task() -> Task:
    return Task("tiny", tiny, denoising_loss(data()), lambda model: {"score": 1.0}, Recipe(7, 4, 1e-2, warmup=2))


def kill_at(step: int):
    def on_step(done: int, loss: float) -> None:
        if done == step:
            raise Killed

    return on_step


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items())
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_killed_run_ends_with_the_same_bits(task, tmp_path):
    whole = train(task, tmp_path / "whole", every=2)
    for step in (3, 6):  # neither is a step that writes a checkpoint, so work is lost and done again
        with pytest.raises(Killed):
            train(task, tmp_path / "killed", every=2 if step == 3 else 5, on_step=kill_at(step))
    assert equal(train(task, tmp_path / "killed", every=2), whole)
    assert not equal(train(task, tmp_path / "other", every=2, seed=1), whole)


def test_training_leaves_the_callers_random_numbers_alone(task, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(task, tmp_path / "run")
    assert torch.equal(torch.rand(1), expected)


def test_a_kill_while_writing_leaves_the_last_checkpoint(task, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run"
    with pytest.raises(Killed):
        train(task, checkpoint, every=2, on_step=kill_at(3))
    before = checkpoint.read_bytes()

    def killed(*paths: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            train(task, checkpoint, every=2)
    assert checkpoint.read_bytes() == before
    assert equal(train(task, checkpoint), train(task, tmp_path / "whole"))


def test_a_checkpoint_of_other_settings_is_refused(task, tmp_path):
    train(task, tmp_path / "run")
    with pytest.raises(ValueError, match="delete it, or give another --out"):
        train(task, tmp_path / "run", seed=1)
    with pytest.raises(ValueError, match="other settings"):
        train(shortened(task, 8), tmp_path / "run")


def test_frozen_parameters_stay(task, tmp_path):
    def half_frozen() -> nn.Module:
        model = tiny()
        model.transformer_blocks.requires_grad_(False)
        return model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = half_frozen()
    trained = train(Task("half", half_frozen, task.loss, task.score, task.recipe), tmp_path / "run")
    assert equal(trained.transformer_blocks, start.transformer_blocks)
    assert not equal(trained.proj_out_2, start.proj_out_2)


def test_the_command_writes_weights_and_how_they_were_made(task, tmp_path, monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setattr(train_command, "find_task", lambda name: task)
    path = train_command.run_training("tiny", tmp_path, Console(), seed=5, steps=3, threads=1)
    assert all(value.dtype == torch.float16 for value in load_file(path).values())
    settings = read_settings(path)
    assert settings["seed"] == 5 and settings["recipe"]["steps"] == 3 and settings["scores"] == {"score": 1.0}
    assert "score 100.0%" in capsys.readouterr().out


def test_several_processes_write_one_file(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "skipcache.benchmarks", "train", "digits-classifier", "--steps", "3", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments, "--out", str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Wrote") == 1
    assert read_settings(tmp_path / "digits-classifier.safetensors")["recipe"]["steps"] == 3


def test_a_task_goes_on_with_the_next_stage(task, tmp_path, monkeypatch):
    """Each stage has a checkpoint and weights of its own, and begins where the one before it ended."""
    from rich.console import Console

    seen = []

    def second(model: nn.Module) -> Task:
        seen.append({name: x.clone() for name, x in model.state_dict().items()})
        return Task("second", lambda: model, task.loss, task.score, task.recipe)

    staged = Task("first", task.build, task.loss, task.score, task.recipe, second)
    monkeypatch.setattr(train_command, "find_task", lambda name: staged)
    path = train_command.run_training("staged", tmp_path, Console(quiet=True), steps=2, threads=1)
    assert path == tmp_path / "second.safetensors"
    first, last = (load_file(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert all(torch.equal(x.half(), first[name]) for name, x in seen[0].items() if x.is_floating_point())
    assert not all(torch.equal(x, last[name]) for name, x in first.items())
    assert read_settings(path)["recipe"]["steps"] == 2


def test_the_last_touch_comes_before_the_score_and_the_file(task, tmp_path, monkeypatch):
    from rich.console import Console

    @torch.no_grad()
    def finish(model: nn.Module) -> nn.Module:
        model.proj_out_2.bias.fill_(2.0)
        return model

    def score(model: nn.Module) -> dict[str, float]:
        return {"bias": model.proj_out_2.bias.mean().item()}

    touched = Task("tiny", task.build, task.loss, score, task.recipe, finish=finish)
    monkeypatch.setattr(train_command, "find_task", lambda name: touched)
    path = train_command.run_training("tiny", tmp_path, Console(quiet=True), steps=2, threads=1)
    assert read_settings(path)["scores"] == {"bias": 2.0}
    assert (load_file(path)["proj_out_2.bias"] == 2).all()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_checkpoint_that_cannot_be_read_gets_one_line(content, tmp_path, capsys):
    (tmp_path / "digits-classifier.checkpoint").write_bytes(content)
    assert main(["train", "digits-classifier", "--steps", "2", "--threads", "1", "--out", str(tmp_path)]) == 2
    assert "expected a checkpoint of `skipcache train`" in capsys.readouterr().err


def test_a_checkpoint_of_something_else_is_refused(task, tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "run")
    with pytest.raises(ValueError, match="it does not hold settings, step, model"):
        train(task, tmp_path / "run")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="it is no file"):
        train(task, tmp_path / "folder")


@pytest.mark.parametrize(
    "part",
    [
        {"step": -1},
        {"step": float("inf")},
        {"step": "3"},
        {"model": 3},
        {"average": torch.zeros(2)},
        {"optimizer": None},
        {"optimizer": {"state": [], "param_groups": [{"params": [0, 1]}]}},
    ],
    ids=str,
)
def test_a_checkpoint_with_a_part_that_cannot_be_is_refused(part, tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    save(tmp_path / "run", {}, 3, model, average, optimizer)
    assert resume(tmp_path / "run", {}, model, average, optimizer) == 3
    torch.save(torch.load(tmp_path / "run") | part, tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"expected a checkpoint of `skipcache train` at .* delete it, or give another"
    ):
        resume(tmp_path / "run", {}, model, average, optimizer)
