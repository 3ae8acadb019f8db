"""Grafting: exact at the start, seen as parameters, and refused where no branch can be."""

import copy
import pickle

import pytest
import torch

import skipcache
from skipcache import Damped, Hold
from skipcache.branches.modules import branches_of
from tests.models.grafted import grafted, trained
from tests.models.sampling import build, equal, sample, state


def test_the_default_predictor_is_the_form_s_own():
    for fuse, predictor in (("add", Damped()), ("concat", Hold())):
        model = skipcache.graft(build("dit"), fuse)
        by_default = sample("dit", skipcache.accelerate(model, interval=3))
        skipcache.restore(model)
        assert equal(by_default, sample("dit", skipcache.accelerate(model, interval=3, predictor=predictor)))


def test_the_middle_unit_of_an_odd_depth_has_no_branch():
    model = skipcache.graft(build("yesterday"))
    assert len(find_units(model)) == 5
    assert branches_of(model).layout.pairs == ((0, 4), (1, 3))


def find_units(model):
    return skipcache.find_stack(model).units


@pytest.mark.parametrize("name", ["dit", "latte", "sd3", "yesterday"])
def test_the_stack_is_found_beside_branches(name):
    model = build(name)
    before = skipcache.find_stack(model)
    assert skipcache.find_stack(skipcache.graft(model)) == before


@pytest.mark.parametrize("name", ["dit", "latte"])
def test_copies_and_pickles_have_branches_of_their_own(name):
    model = grafted(name, "concat")
    expected = sample(name, model)
    cached = sample(name, skipcache.accelerate(grafted(name, "concat"), interval=3))
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    trained(model, seed=1)
    assert not equal(sample(name, model), expected)
    for other in copies:
        assert equal(sample(name, other), expected)
        skipcache.accelerate(other, interval=3)
        again = copy.deepcopy(other)
        assert equal(sample(name, other), cached)
        assert equal(sample(name, again), cached)
        skipcache.restore(again)
        skipcache.ungraft(again)


def test_branches_are_seen_as_parameters():
    model = skipcache.graft(build("dit"), "concat")
    names = [name for name, _ in model.named_parameters() if name.startswith("skip_branches.")]
    assert len(names) == 2 * 4 and "skip_branches.1.0.linear.weight" in names
    assert set(names) <= set(model.state_dict())
    model.to(torch.float64)
    assert all(p.dtype == torch.float64 for p in branches_of(model).parameters())
    other = skipcache.graft(build("dit", seed=1), "concat").to(torch.float64)
    other.load_state_dict(model.state_dict())
    assert equal(list(other.parameters()), list(model.parameters()))


def test_weights_of_another_layout_are_refused_by_name():
    weights = skipcache.graft(build("original_dit"), "add").state_dict()
    other = skipcache.graft(build("original_dit"), "concat")
    with pytest.raises(ValueError, match=r"add branches .* the model has concat branches"):
        other.load_state_dict(weights)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([(0, 1)], ValueError, "a target in"),
        ([(2, 3)], ValueError, "a source in"),
        ([(3, 0)], ValueError, "a source in"),
        ([(0, 4)], ValueError, "a target in"),
        ([(-1, 3)], ValueError, "a source in"),
        ([(0, 3), (0, 2)], ValueError, "one pair at most"),
        ([(0, 3), (1, 3)], ValueError, "one pair at most"),
        ([(0, 2), (1, 3)], ValueError, "cross"),
        ([], ValueError, "at least one"),
        ([(0, 3, 1)], TypeError, "pairs of ints"),
        ([(0.0, 3)], TypeError, "pairs of ints"),
        ([3], TypeError, "pairs of ints"),
    ],
)
def test_pairs_that_cannot_be(pairs, error, message):
    model = build("original_dit")
    before = state(model)
    with pytest.raises(error, match=message):
        skipcache.graft(model, pairs=pairs)
    assert state(model) == before


def test_bad_grafts_leave_the_model_alone():
    model = build("original_dit")
    before = state(model)
    for options, error in (
        ({"fuse": "multiply"}, ValueError),
        ({"streams": 0}, ValueError),
        ({"width": (16, 16)}, ValueError),
        ({"width": -1}, ValueError),
        ({"stack": 3}, TypeError),
    ):
        with pytest.raises(error):
            skipcache.graft(model, **options)
        assert state(model) == before
    with pytest.raises(ValueError, match="no grafted"):
        skipcache.ungraft(model)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        skipcache.graft("dit")
    skipcache.graft(model)
    with pytest.raises(ValueError, match="ungraft first"):
        skipcache.graft(model)


def test_an_accelerated_model_is_grafted_only_after_restore():
    model = skipcache.accelerate(build("original_dit"))
    with pytest.raises(ValueError, match="restore first"):
        skipcache.graft(model)
    skipcache.restore(model)
    skipcache.accelerate(skipcache.graft(model))
    with pytest.raises(ValueError, match="restore first"):
        skipcache.ungraft(model)


def test_a_model_with_branches_of_its_own_is_left_alone():
    model = build("hunyuan_dit")
    with pytest.raises(ValueError, match="of its own"):
        skipcache.graft(model)
    with pytest.raises(ValueError, match="belong to a model"):
        skipcache.ungraft(model)


@pytest.mark.parametrize("keep", [0, (1, 2), (2, 1), (0, 1)])
def test_ends_must_match(keep):
    model = skipcache.graft(build("yesterday"))
    with pytest.raises(ValueError, match="head = tail >= 1"):
        skipcache.accelerate(model, keep=keep)


def test_a_branch_into_the_tail_must_start_in_the_head():
    model = grafted("yesterday", "concat", pairs=[(1, 4)])
    with pytest.raises(ValueError, match="start in units that a cached step skips"):
        skipcache.accelerate(model, keep=1)
    expected = sample("yesterday", model)
    skipcache.accelerate(model, keep=2, interval=3)
    assert torch.equal(sample("yesterday", model)[0], expected[0])
    assert skipcache.report(model).cached_steps == 4
