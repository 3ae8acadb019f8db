"""The command line: a small main job makes all its outputs; the impossible gets one line and exit code 2."""

import builtins
import subprocess
import sys

import pytest

from skipcache.benchmarks.cli.main import main
from skipcache.benchmarks.names.models import REFERENCES, TRAINABLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "--steps: expected at least 2, got 1"),
        (["--intervals", "0"], "--intervals: expected at least 1, got 0"),
        (["--keep", "1", "2", "3"], "--keep: expected one or two numbers, got 3"),
        (["--keep", "-1"], "--keep: expected at least 0, got -1"),
        (["--keep", "6"], "expected head + tail < 12"),
        (["--predictor", "hold", "best"], "--predictor: expected one of hold, delta, forecast, damped, got 'best'"),
        (["--scheduler", "pndm"], "--scheduler: expected one of ddim"),
        (["--seeds", "1", "1"], "--seeds: expected different values, got 1 1"),
        (["--dtype", "int8"], "--dtype: expected one of float32"),
        (["--device", "abacus"], "--device: expected one torch can use, got 'abacus'"),
        (
            ["--model", "dit"],
            f"expected one of {', '.join(REFERENCES)}, got 'dit'",
        ),
        (["--beside", "dit-digits"], "--beside: expected another model than --model"),
        (["--beside", "dit"], "expected one of dit-digits"),
        (["--beside", "dit-digits-skip", "--keep", "0"], "head = tail >= 1"),
        (["--batch", "1"], "--batch: expected at least 2, got 1"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--weights", "none.safetensors"], "expected weights at none.safetensors"),
        (["--compile"], "--compile: expected an option of `skipcache bench`, which does not take it"),
        (["--rounds", "3"], "`skipcache engines` and `skipcache overhead` do"),
        (["--targets", "2"], "`skipcache peers` does"),
        (["--methods", "pab"], "`skipcache peers` does"),
        (["--model", "dit-digits", "--presets"], "--presets: expected an option of `skipcache bench`"),
        (["--peers", "--targets", "2"], "type `skipcache peers`"),
        (["--preset", "dit-digits"], "type `skipcache engines PRESET`"),
        (["--batch", "99999999999999999999"], "--batch: expected at most 10000, got 99999999999999999999"),
        (["--threads", "99999999999999999999"], "--threads: expected at most 1024"),
        (["--seeds", "99999999999999999999"], "--seeds: expected at most 2147483647"),
        (["--guidance", "inf"], "--guidance: expected a finite number, got inf"),
        (["--device", "meta"], "--device: expected one torch can use, got 'meta'"),
        (["--weights", "/dev/zero"], "--weights: expected weights at /dev/zero, found something that is no file"),
        (["--weights", __file__], "expected weights of this DiTTransformer2DModel"),
    ],
)
def test_bad_options(arguments, message, capsys, tmp_path):
    assert main(["bench", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dit"], "PRESET: expected one of dit-xl-256"),
        (["dit-xl-256", "--seeds", "0"], "--seeds: expected an option of `skipcache engines`, which does not take it"),
        (["dit-xl-256", "--model", "dit-digits"], "--model: expected an option of `skipcache engines`"),
        (["dit-xl-256", "--targets", "2"], "`skipcache peers` does"),
        (["dit-xl-256", "--intervals", "1"], "--intervals: expected at least 2"),
        (["dit-xl-256", "--compile", "x"], "--compile: expected a backend of torch.compile, got 'x'"),
        (["dit-xl-256", "--compile", "--mode", "x"], "--mode: expected a mode of torch.compile, got 'x'"),
        (["dit-xl-256", "--mode", "reduce-overhead"], "--mode: expected --compile inductor with it, got None"),
        (["dit-digits", "--size", "real"], "--size: expected one of dit-xl-256"),
        (["dit-xl-256", "--blocks", "0"], "--blocks: expected at least 1, got 0"),
        (["dit-xl-256", "--blocks", "7"], "--blocks: expected at most 6, the layers that there are, got 7"),
        (["dit-xl-256", "--cpu-time"], "--cpu-time: expected --device cpu and --threads 1 with it"),
    ],
)
def test_bad_options_of_engines(arguments, message, capsys, tmp_path):
    assert main(["engines", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_bad_option_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; from skipcache.benchmarks.cli.main import main; assert main(sys.argv[1:]) == 2;"
        "heavy = {'diffusers', 'matplotlib', 'safetensors', 'sklearn', 'torchmetrics', 'cache_dit'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    for arguments in (["bench", "--modle", "x"], ["bench", "--model", "x"], ["engines", "x"], ["train", "x"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True)


@pytest.mark.parametrize("arguments", [[], ["bench", "--steps", "x"], ["bake"]])
def test_what_argparse_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


def test_missing_extras_say_what_to_install(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "skipcache.benchmarks.fidelity.run":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.axes")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["bench"]) == 2
    assert "pip install 'skipcache[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_what_does_not_fit_into_memory_gets_one_line(error, monkeypatch, capsys):
    def full(*args):
        raise error

    monkeypatch.setattr("skipcache.benchmarks.fidelity.run.run_bench", full)
    assert main(["bench"]) == 2
    assert "smaller --batch" in capsys.readouterr().err


def test_train_refuses_unknown_names(capsys, tmp_path):
    assert main(["train", "dit", "--out", str(tmp_path)]) == 2
    message = f"expected one of {', '.join(TRAINABLE)}, got 'dit'"
    assert message in capsys.readouterr().err
