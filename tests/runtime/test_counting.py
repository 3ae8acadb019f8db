"""Counts are of what an engine says it did, never of what was asked of it."""

import pytest
import torch
from torch import nn

import skipcache
from tests.models.odd import Tiny, run, tiny


class Regime(nn.Module):
    """A leaf whose answer is a plain number that follows the timestep: a graph holds it for constant."""

    def forward(self, t):
        return int(t.flatten()[0] > 500)


class Switched(Tiny):
    def __init__(self):
        super().__init__(depth=6)
        self.regime = Regime()

    def before(self, h, x, t):
        return h * 1.5 if self.regime(t) else h


def test_a_cached_step_whose_graph_was_stale_is_reported_as_the_full_step_that_it_was():
    model = skipcache.accelerate(tiny(Switched), interval=3, engine="fx")
    plain = run(tiny(Switched), steps=7)
    outputs = run(model, steps=7)  # t = 950, 800, 650, 500, ...: the fifth step is cached, and the number has changed
    report = skipcache.report(model)
    assert report.full_at == (0, 3, 4, 6), "the number has changed since the graph was made, at the first step"
    assert (report.full_steps, report.cached_steps) == (4, 3)
    skipcache.restore(model)
    model = skipcache.accelerate(model, policy=skipcache.Schedule([0, 9]), engine="fx")
    outputs = run(model, steps=7)
    report = skipcache.report(model)
    assert report.full_at == (0, 3), "the step at which the number changed ran in full"
    assert report.blocks_run == 2 * 6 + 5 * 2 and report.blocks_saved == 7 * 6 - report.blocks_run
    assert torch.equal(outputs[0], plain[0])


def test_hold_leaves_the_head_out_with_either_engine():
    outputs = {}
    for engine in ("fx", "hooks"):
        model = skipcache.accelerate(tiny(depth=6), interval=3, predictor=skipcache.Hold(), engine=engine)
        outputs[engine] = run(model, steps=6)
        report = skipcache.report(model)
        assert report.blocks_run == 2 * 6 + 4 * 1, engine
    assert all(map(torch.equal, outputs["fx"], outputs["hooks"]))


def test_a_head_that_the_tail_reads_runs_under_hold():
    """By a side way that no graph was told of: the trial fails, and the head computes on every step."""

    class Remembering(Tiny):
        def forward(self, x, t):
            c = self.time(t)
            h = self.inlet(x.flatten(2).transpose(1, 2))
            early = None
            for i, block in enumerate(self.blocks):
                h = block(h, c)
                early = h if i == 0 else early
            return self.outlet(h + early).transpose(1, 2).reshape(x.shape)

    model = skipcache.accelerate(tiny(Remembering), interval=3, predictor=skipcache.Hold(), engine="hooks")
    run(model, steps=6)
    assert skipcache.report(model).blocks_run == 2 * 5 + 4 * 2
    delta = skipcache.accelerate(tiny(Remembering), interval=3, predictor=skipcache.Hold(), engine="fx")
    run(delta, steps=6)
    assert skipcache.report(delta).blocks_run == 2 * 5 + 4 * 2


def test_a_step_that_ends_in_an_error_is_not_counted():
    class Failing(Tiny):
        def after(self, h, x, t):
            if self.count:
                raise KeyboardInterrupt
            return h

    model = skipcache.accelerate(tiny(Failing), interval=3, engine="hooks")
    run(model, steps=1)
    model.count = 1
    with pytest.raises(KeyboardInterrupt):
        run(model, steps=1)
    assert skipcache.report(model).full_steps == 1


def test_a_repeated_call_counts_as_the_full_call_that_it_was_and_as_no_step():
    model = skipcache.accelerate(tiny(depth=6), interval=3)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([900.0, 900.0])
    with torch.no_grad():
        outputs = [model(x, t) for _ in range(3)]
    report = skipcache.report(model)
    assert (report.full_steps, report.cached_steps, report.blocks_run) == (1, 0, 3 * 6)
    assert report.ideal_speedup == 1.0
    assert torch.equal(outputs[0], outputs[2])
