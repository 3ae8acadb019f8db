"""A forward that acts on more than its model: on full steps nothing is repeated or lost, or the model is refused."""

import pytest
import torch

import skipcache
from tests.models.odd import Tiny, run, tiny
from tests.models.originals import Block

BOTH = pytest.mark.parametrize("engine", ["hooks", "auto"])


class Runtime:
    calls, inner, precise, gain = 0, 0, True, 1.0


RUNTIME = Runtime()


class AllFull:
    caches = True

    def full(self, step):
        return True


class Rounds(Block):
    """Computes by a flag, as xDiT's attention takes another kernel on the first and last steps."""

    def forward(self, x, c):
        y = super().forward(x, c)
        return y if RUNTIME.precise else y.bfloat16().float()


class Counts(Tiny):
    """Counts its calls outside of itself."""

    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.__class__ = Rounds

    def before(self, h, x, t):
        RUNTIME.precise = RUNTIME.calls < 3 or RUNTIME.calls >= 6
        RUNTIME.calls += 1
        return h


def counted(model, **kwargs):
    RUNTIME.calls = RUNTIME.inner = 0
    outputs = run(model, steps=9, **kwargs)
    return outputs, RUNTIME.calls


@BOTH
def test_on_full_steps_calls_are_counted_once_and_outputs_are_the_plain_ones(engine):
    model = tiny(Counts)
    plain, calls = counted(model)
    skipcache.accelerate(model, policy=AllFull(), engine=engine)
    for _ in range(2):
        outputs, again = counted(model)
        assert again == calls == 9 and all(map(torch.equal, outputs, plain))
    skipcache.report(model)
    assert RUNTIME.calls == 9


def test_a_graph_that_would_lose_the_count_is_refused_by_name():
    model = skipcache.accelerate(tiny(Counts), interval=3, engine="fx")
    with pytest.raises(RuntimeError, match=r"the forward changes .*Runtime\.calls.* outside of the model"):
        run(model)


@BOTH
def test_cached_steps_are_counted_too_and_a_report_counts_nothing(engine):
    model = skipcache.accelerate(tiny(Counts), interval=3, engine=engine)
    assert counted(model)[1] == 9
    assert skipcache.report(model).cached_steps == 6 and RUNTIME.calls == 9


class Inner(Block):
    """Counts its own calls outside of the model."""

    def forward(self, x, c):
        RUNTIME.inner += 1
        return super().forward(x, c)


class CountsInside(Tiny):
    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.__class__ = Inner


@pytest.mark.parametrize("engine", ["hooks", "fx"])
def test_blocks_that_count_are_refused_by_name_and_run_once(engine):
    plain, _ = counted(tiny(CountsInside))
    expected = RUNTIME.inner
    model = skipcache.accelerate(tiny(CountsInside), interval=3, engine=engine)
    if engine == "fx":
        with pytest.raises(RuntimeError, match=r"counts in Runtime\.inner, outside of it"):
            counted(model)
        return
    with pytest.warns(UserWarning, match=r"counts in Runtime\.inner, outside of it"):
        outputs, _ = counted(model)
    assert RUNTIME.inner == expected == 9 * 5 and all(map(torch.equal, outputs, plain))


class Gains(Tiny):
    def before(self, h, x, t):
        return h * RUNTIME.gain


def gained(model):
    def gain(i):
        RUNTIME.gain = 1.0 + i // 4
        return

    class Caller:
        def __call__(self, x, t, gain):
            return model(x, t)

    return run(Caller(), steps=9, gain=gain)


def test_a_graph_is_dropped_where_a_value_that_it_read_outside_has_changed(monkeypatch):
    monkeypatch.setattr("skipcache.engines.order.WORTH", 0)
    plain = gained(tiny(Gains))
    model = skipcache.accelerate(tiny(Gains), policy=AllFull(), engine="auto")
    assert all(map(torch.equal, gained(model), plain))
    assert any("the forward's Python reads changes from step to step" in r for r in skipcache.report(model).reasons)
    RUNTIME.gain = 1.0


class Mag(Tiny):
    """MagCache keeps its counters on the class."""

    cnt, errors = 0, [0.0, 0.0]

    def before(self, h, x, t):
        type(self).cnt += 1
        self.errors[self.cnt % 2] += 0.25
        return h


@BOTH
def test_counters_on_the_class_are_those_of_a_plain_run(engine):
    Mag.cnt, Mag.errors[:] = 0, [0.0, 0.0]
    run(tiny(Mag), steps=5)
    expected = Mag.cnt, Mag.errors.copy()
    Mag.cnt, Mag.errors[:] = 0, [0.0, 0.0]
    run(skipcache.accelerate(tiny(Mag), policy=AllFull(), engine=engine), steps=5)
    assert (Mag.cnt, Mag.errors) == expected
