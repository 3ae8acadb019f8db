"""What a forward reads beside its arguments is no constant, neither on full steps nor on cached ones."""

import gc
import types
import warnings

import numpy
import pytest
import torch

import skipcache
from skipcache.engines.fx.assumptions import Guard
from skipcache.engines.fx.reads import Cells, Reads
from tests.models.odd import Tiny, programs, run, tiny

FLAG = 1.0
OPTIONS = types.SimpleNamespace(scale=1.0, inner=types.SimpleNamespace(sizes=[1.0]))


def closed():
    scale = 1.0

    def read():
        return scale

    def change(value):
        nonlocal scale
        scale = value

    return read, change


READ, CHANGE = closed()


class Settings:
    scale = 1.0

    def __init__(self):
        self.own, self.more = 1.0, {"deep": [1.0]}


class ReadsAnything(Tiny):
    of_the_class = 1.0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cfg, self.array = Settings(), numpy.ones(1)

    def before(self, h, x, t):
        scale = FLAG * OPTIONS.scale * OPTIONS.inner.sizes[0] * READ() * Settings.scale * self.of_the_class
        return h * scale * self.cfg.own * self.cfg.more["deep"][0] * float(self.array[0]) * getattr(self, "late", 1.0)

    def after(self, h, x, t):
        return self.before(h, x, t)


def put_flag(model, value):
    globals()["FLAG"] = value


CHANGES = {
    "a global": put_flag,
    "an object in a global": lambda m, v: setattr(OPTIONS, "scale", v),
    "a list in an object in a global": lambda m, v: OPTIONS.inner.sizes.__setitem__(0, v),
    "a closure": lambda m, v: CHANGE(v),
    "an attribute of another class": lambda m, v: setattr(Settings, "scale", v),
    "an attribute of the model's class": lambda m, v: setattr(type(m), "of_the_class", v),
    "an attribute that hides the class's": lambda m, v: setattr(m, "of_the_class", v),
    "an object on the model": lambda m, v: setattr(m.cfg, "own", v),
    "a list in a dict in an object": lambda m, v: m.cfg.more["deep"].__setitem__(0, v),
    "a NumPy array": lambda m, v: m.array.fill(v),
    "an attribute that was not there": lambda m, v: setattr(m, "late", v),
}


@pytest.fixture(autouse=True)
def as_before():
    yield
    for name, change in CHANGES.items():
        if not name.startswith(("an attribute that", "an object on", "a list in a dict", "a NumPy")):
            change(ReadsAnything(), 1.0)


def changed(kind, engine, value=2.0):
    """The outputs of a run in which `kind` changes before a full step, and again before a cached one."""
    model = tiny(ReadsAnything)
    if engine != "plain":
        skipcache.accelerate(model, interval=3, engine=engine)
    calls = iter(range(100))

    def call(x, t):
        i = next(calls)
        if i in (3, 5):
            CHANGES[kind](model, value + i)
        return model(x, t)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = run(call)
    CHANGES[kind](model, 1.0)
    return outputs, model


@pytest.mark.parametrize("kind", CHANGES)
def test_a_python_value_that_changes_in_a_run_is_read_anew(kind):
    """Before the change, at it and after it fx gives what hooks give, who run all of the forward's Python."""
    (ours, model), (hooked, _) = changed(kind, "fx"), changed(kind, "hooks")
    assert all(torch.equal(a, b) for a, b in zip(ours[:5], hooked[:5]))
    report = skipcache.report(model)
    assert report.full_at == (0, 3, 5, 6), "the graph that was made at step 3 does not serve step 5"
    assert any("forward reads has changed" in reason for reason in report.reasons)


@pytest.mark.parametrize("engine", ["fx", "hooks"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_full_step_is_the_plain_model_s_whatever_changed(kind, engine):
    plain, model = tiny(ReadsAnything), skipcache.accelerate(tiny(ReadsAnything), interval=3, engine=engine)
    x = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        for value in (1.0, 3.0, 0.5):
            CHANGES[kind](model, value)
            CHANGES[kind](plain, value)
            expected = plain(x, torch.full((2,), 900))
            for t in (900, 800, 700):
                output = model(x, torch.full((2,), t))
                assert t < 900 or torch.equal(output, expected)


def test_reads_notes_the_forward_s_own_code_and_not_torch_s():
    model = tiny(ReadsAnything)
    with Reads() as reads, torch.no_grad():
        model.before(torch.ones(2), None, None)
    assert {"FLAG", "OPTIONS", "cfg", "late"} <= reads.names
    assert {code.co_name for code in reads._ran} == {"before", "read"}
    places = {name for _, name in reads.places()}
    assert {"FLAG", "OPTIONS", "READ", "Settings"} <= places and "numpy" not in places


def test_a_guard_without_any_change_holds_and_programs_are_kept():
    model = skipcache.accelerate(tiny(ReadsAnything), interval=3, engine="fx")
    run(model)
    run(model)
    assert len(programs(model)) == 1 and programs(model)[0].guard.holds()
    assert isinstance(programs(model)[0].guard, Guard)


class Window:
    scale = 2.0


class TakesAnything(Tiny):
    def before(self, h, x, t, given=None):
        return h * (float(given[0]) if isinstance(given, numpy.ndarray) else given.scale)


@pytest.mark.parametrize("given", [numpy.full(1, 2.0), Window()], ids=["array", "object"])
def test_an_object_among_the_arguments_is_left_to_hooks(given):
    with pytest.raises(RuntimeError, match=f"an argument is of type {type(given).__name__}"):
        run(skipcache.accelerate(tiny(TakesAnything), interval=3, engine="fx"), given=given)
    auto, hooks = (skipcache.accelerate(tiny(TakesAnything), interval=3, engine=e) for e in ("auto", "hooks"))
    ours = run(auto, given=given)
    assert all(map(torch.equal, ours, run(hooks, given=given)))
    assert skipcache.report(auto).engine == "hooks" and skipcache.report(auto).cached_steps == 4


def test_callbacks_of_the_garbage_collector_are_no_code_of_the_forward():
    def collected(phase, info):
        return None

    gc.callbacks.append(collected)
    try:
        with Reads() as reads:
            kept = [[i] for i in range(5000)]
        assert kept and collected.__code__ not in reads._ran and gc.isenabled()
    finally:
        gc.callbacks.remove(collected)


def decorated(function):
    kept = 1

    def wrapper(x):
        nonlocal kept
        kept += 0
        return function(x) + kept

    return wrapper


@decorated
def known(x):
    return x


class Base:
    def ahead(self):
        return 1


class Own(Base):
    def ahead(self):
        return super().ahead() + known(1)


def read(function, *args):
    with Reads() as reads:
        function(*args)
    return sorted(name for held, name in reads.places() if isinstance(held, Cells))


def test_closures_that_names_lead_to_are_found_without_a_search_of_the_process(monkeypatch):
    def searched(*_):
        raise AssertionError

    monkeypatch.setattr("skipcache.engines.fx.reads.gc.get_referrers", searched)
    assert read(Own().ahead) == ["__class__", "function", "kept"]


def test_a_closure_that_no_name_leads_to_is_found_too():
    hidden = [decorated(abs)]
    assert read(lambda: known(1) + hidden[0](1)).count("kept") == 2
