"""A client says which run, step and lane a call is; it is taken at its word."""

import asyncio
import json
import threading

import pytest
import torch

import skipcache
from tests.models.odd import Tiny, tiny

ENGINES = ["fx", "hooks"]
TIMES = [950.0, 800.0, 650.0, 500.0, 350.0, 200.0]


def call(model, x, t):
    with torch.no_grad():
        return model(x, torch.full((len(x),), float(t)))


def noise(seed=0):
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def alone(engine, interval, seed):
    """The outputs of one run without another one beside it."""
    model, x, outputs = skipcache.accelerate(tiny(depth=6), interval=interval, engine=engine), noise(seed), []
    for t in TIMES:
        outputs.append(call(model, x, t))
        x = x - 0.1 * outputs[-1]
    return outputs


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("said", [TIMES, torch.tensor(TIMES), None], ids=["list", "tensor", "unsaid"])
def test_named_runs_take_turns_as_if_each_were_alone(engine, said):
    model = skipcache.accelerate(tiny(depth=6), interval=3, engine=engine)
    xs, intervals = {"a": noise(1), "b": noise(2)}, {"a": 3, "b": 2}
    outputs = {name: [] for name in xs}
    for t in TIMES:
        for name in xs:
            with skipcache.run(model, name, said, interval=intervals[name]):
                outputs[name].append(call(model, xs[name], t))
            xs[name] = xs[name] - 0.1 * outputs[name][-1]
    for seed, name in ((1, "a"), (2, "b")):
        assert all(map(torch.equal, outputs[name], alone(engine, intervals[name], seed))), name
    found = {name: skipcache.run(model, name).report() for name in xs}
    assert [found[name].full_at for name in xs] == [(0, 3), (0, 2, 4)]
    assert skipcache.report(model).full_steps == 5 and json.loads(found["a"].to_json())["full_at"] == [0, 3]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interval_of_one_switches_caching_off_for_a_run(engine):
    model, plain = skipcache.accelerate(tiny(depth=6), interval=3, engine=engine), tiny(depth=6)
    with skipcache.run(model, "exact", interval=1) as run:
        assert all(torch.equal(call(model, noise(), t), call(plain, noise(), t)) for t in TIMES)
    assert run.report().cached_steps == 0 and run.report().full_steps == len(TIMES)


def test_steps_that_are_said_time_cached_steps():
    """A loop over one call is plain, unless its steps are named."""
    model, x = skipcache.accelerate(tiny(depth=6), interval=3), noise()
    with skipcache.run(model, "timing", TIMES) as run:
        for i in range(len(TIMES)):
            with run.step(i):
                call(model, x, 500.0)
    assert run.report().full_at == (0, 3) and run.report().cached_steps == 4


def test_lanes_that_are_said_are_told_apart():
    model, x = skipcache.accelerate(tiny(depth=6), interval=9), noise()
    with skipcache.run(model, "r") as run:
        for t in TIMES[:3]:
            for lane in ("cond", "uncond"):
                with run.step(lane=lane):
                    call(model, x * (1 if lane == "cond" else -1), t)
    report = run.report()
    assert (report.full_steps, report.cached_steps, report.blocks_run) == (1, 2, 2 * 6 + 4 * 2)


def test_a_named_run_goes_with_tasks_and_threads():
    model, outputs = skipcache.accelerate(tiny(depth=6), interval=3), {}

    async def request(name, seed):
        x, outputs[name] = noise(seed), []
        with skipcache.run(model, name, TIMES):
            for t in TIMES:
                outputs[name].append(await asyncio.to_thread(call, model, x, t))
                x = x - 0.1 * outputs[name][-1]

    async def both():
        await asyncio.gather(request("a", 1), request("b", 2))

    asyncio.run(both())
    for name, seed in (("a", 1), ("b", 2)):
        assert all(map(torch.equal, outputs[name], alone("auto", 3, seed)))
        assert skipcache.run(model, name).report().full_at == (0, 3)


def test_a_word_ends_with_its_block_and_is_of_its_model_alone():
    one, other = (skipcache.accelerate(tiny(depth=6), interval=3) for _ in range(2))
    with skipcache.run(one, "r"):
        call(other, noise(), 900.0)
    call(one, noise(), 900.0)
    with pytest.raises(ValueError, match="no call was made in a run called 'r'"):
        skipcache.run(one, "r").report()
    seen = []
    with skipcache.run(one, "r"):
        thread = threading.Thread(target=lambda: seen.append(call(one, noise(3), 900.0)))
        thread.start()
        thread.join()
    assert seen and skipcache.report(one).full_steps == 2, "a thread that was not handed the context is not in the run"


def test_ended_and_released_runs_hold_nothing_and_the_report_stays():
    model = skipcache.accelerate(tiny(depth=6), interval=3)
    with skipcache.run(model, "r") as run:
        call(model, noise(), 900.0)
    assert skipcache.report(model).cache_bytes == run.report().cache_bytes > 0
    skipcache.release(model)
    report = skipcache.report(model)
    assert report.cache_bytes == 0 and report.full_steps == 1
    with skipcache.run(model, "r"):
        call(model, noise(), 800.0)
    assert run.report().full_at == (0, 1), "nothing was left to reuse"
    run.end()
    assert skipcache.report(model).cache_bytes == 0


@pytest.mark.filterwarnings("ignore:skipcache caches nothing. a call had no features:UserWarning")
def test_what_is_called_longest_ago_goes_first_past_the_limit():
    model = skipcache.accelerate(tiny(depth=6), interval=9)
    with skipcache.run(model, "a"):
        call(model, noise(), 900.0)
    size = skipcache.report(model).cache_bytes
    skipcache.restore(model)
    model = skipcache.accelerate(model, interval=9, cache_limit=2 * size)
    for t in TIMES[:3]:
        for name in "abc":
            with skipcache.run(model, name):
                call(model, noise(ord(name)), t)
            assert skipcache.report(model).cache_bytes <= 2 * size
    report = skipcache.report(model)
    assert report.evictions == 7 and report.cached_steps == 0, "of three in turns each loses its features to the next"
    assert "evictions" in str(report) and any("cache_limit" in reason for reason in report.reasons)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_suspended_model_is_plain_and_goes_on_afterwards(engine):
    model, plain = skipcache.accelerate(tiny(depth=6), interval=3, engine=engine), tiny(depth=6)
    outputs, x = [], noise(1)
    for t in TIMES:
        with skipcache.suspended(model):
            assert torch.equal(call(model, noise(5), t), call(plain, noise(5), t))
        outputs.append(call(model, x, t))
        x = x - 0.1 * outputs[-1]
    assert all(map(torch.equal, outputs, alone(engine, 3, 1)))


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"name": ""}, TypeError),
        ({"name": 3}, TypeError),
        ({"timesteps": []}, ValueError),
        ({"timesteps": [1.0, float("nan")]}, ValueError),
        ({"timesteps": "soon"}, TypeError),
        ({"timesteps": [[1.0]]}, ValueError),
        ({"interval": 2, "speedup": 2}, ValueError),
        ({"interval": 0}, ValueError),
        ({"policy": skipcache.Interval}, TypeError),
        ({"policy": skipcache.Threshold(0.1)}, ValueError),
    ],
)
def test_bad_words(kwargs, error):
    model = skipcache.accelerate(tiny(Tiny))
    with pytest.raises(error, match=r"run|interval"):
        skipcache.run(model, **{"name": "r", **kwargs})


def test_bad_steps_and_models():
    with pytest.raises(ValueError, match="not accelerated"):
        skipcache.run(tiny(), "r")
    run = skipcache.run(skipcache.accelerate(tiny()), "r", TIMES)
    for step, error in ((6, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="step"), run.step(step):
            pass
    with pytest.raises(ValueError, match="none were given"), skipcache.run(skipcache.accelerate(tiny()), "r").step(0):
        pass


def test_another_policy_or_other_timesteps_under_a_known_name_begin_another_run():
    model, plain = skipcache.accelerate(tiny(depth=6), interval=3), tiny(depth=6)
    for i, t in enumerate(TIMES[:4]):
        with skipcache.run(model, "r", interval=3 if i == 0 else 1):
            assert torch.equal(call(model, noise(), t), call(plain, noise(), t)), i
    for timesteps in (TIMES[:4], TIMES[3:]):
        for i, t in enumerate(timesteps):
            with skipcache.run(model, "s", timesteps) as run:
                out = call(model, noise(), t)
            assert i or torch.equal(out, call(plain, noise(), t))
    assert run.report().full_at == (0,)


@pytest.mark.parametrize("engine", ENGINES)
def test_full_steps_are_placed_in_the_flow_time_that_a_client_says(engine):
    """A shifted flow: late steps are far apart in flow time, early ones are not."""
    timesteps = [1000 * 3 * s / (1 + 2 * s) for s in (1 - i / 24 for i in range(24))]
    placed = {}
    for name, times in (("ddpm", None), ("flow", [t / 1000 for t in timesteps])):
        model, x = skipcache.accelerate(tiny(depth=6), keep=0, speedup=2, engine=engine), noise()
        for t in timesteps:
            with skipcache.run(model, name, timesteps, times=times) as run:
                x = x - 0.05 * call(model, x, t)
        placed[name] = run.report().full_at
    assert placed["flow"] == skipcache.Spread(0.5).places(24, tuple(t / 1000 for t in timesteps))
    assert placed["ddpm"] == skipcache.Spread(0.5).places(24) != placed["flow"]
