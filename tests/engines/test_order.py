"""Which engine is tried first, and the step at which `auto` changes its engine."""

import pytest
import torch

import skipcache
from skipcache.engines import Order
from skipcache.engines import order as rules
from skipcache.trajectory import CallReader
from tests.models.zoo import ZOO

CALL = CallReader(("x", "t"), "x", "t").read((torch.zeros(1, 2), 1.0), {})
OTHER = CallReader(("x", "t"), "x", "t").read((torch.zeros(2, 2), 1.0), {})


class Engine:
    def __init__(self, serves=False):
        self.is_serving = serves

    def serves(self, call):
        return self.is_serving


def test_the_quickest_to_begin_goes_first_until_the_other_is_worth_its_first_step():
    begins, runs = Engine(), Engine()
    order = Order([begins, runs])
    for _ in range(rules.WORTH - 1):
        order.cached(CALL)
    assert order.for_full(CALL) == (begins, runs) and order.for_cached() == (runs, begins)
    order.cached(CALL)
    assert order.for_full(CALL) == (runs, begins) and order.for_full(OTHER) == (begins, runs)


def test_an_engine_that_serves_already_goes_on():
    begins, runs = Engine(), Engine(serves=True)
    assert Order([begins, runs]).for_full(CALL) == (runs, begins)


def test_at_once():
    begins, runs = Engine(), Engine()
    assert Order([begins, runs], at_once=True).for_full(CALL) == (runs, begins)


def test_one_engine_is_all_there_is():
    only = Engine()
    order = Order([only])
    order.cached(CALL)
    assert order.for_full(CALL) == order.for_cached() == (only,)


@pytest.mark.parametrize("name", ["dit", "flux_dev", "latte"])
def test_auto_changes_its_engine_on_the_way_and_nothing_else_changes(monkeypatch, name):
    monkeypatch.setattr(rules, "WORTH", 4)
    entry, times = ZOO[name], [1 - i / 12 for i in range(12)]

    def run(engine):
        model = skipcache.accelerate(entry.build(), interval=3, engine=engine)
        outputs, engines = [], []
        with torch.no_grad():
            for call in entry.trajectory(*times):
                outputs.append(model(**call)[0])
                engines.append(skipcache.report(model).engine)
        return outputs, engines, skipcache.report(model)

    (auto, engines, report), (hooks, _, alone) = run("auto"), run("hooks")
    assert engines[:6] == ["hooks"] * 6 and engines[6:] == ["hooks and fx"] * 6, "four cached steps came before step 6"
    assert all(map(torch.equal, auto, hooks))
    assert (report.full_at, report.blocks_run) == (alone.full_at, alone.blocks_run) and not report.reasons
