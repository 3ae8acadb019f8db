"""ComfyUI's node, against a stand-in of what ComfyUI promises. `test_itself.py` runs ComfyUI's own code."""

import json
from contextlib import nullcontext
from copy import deepcopy
from importlib import util
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import skipcache
from skipcache import comfyui
from skipcache.clients.comfyui import calls, nodes, sampling, steps
from tests.models.comfy_standin import Flow, euler, heun, midpoint, patcher, sample, sigmas_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "comfyui"
each_sampler = pytest.mark.parametrize("sampler", [euler, heun, midpoint])


def kept(model):
    """All that hangs on the modules; values by identity."""
    return {path: {name: id(value) for name, value in m.__dict__.items()} for path, m in model.named_modules()}


def lines(model):
    return comfyui.report_of(model).splitlines()


def full_at(model):
    (line,) = (line for line in lines(model) if line.startswith("full at: "))
    return tuple(map(int, line.removeprefix("full at: ").split()))


@each_sampler
@pytest.mark.parametrize("batched", [True, False])
def test_an_interval_of_one_is_exact_and_the_model_is_left_as_it_was(sampler, batched):
    model = patcher()
    before = kept(model.model.diffusion_model)
    plain = sample(model, sampler=sampler, batched=batched)
    assert torch.equal(sample(comfyui.attach(model, interval=1), sampler=sampler, batched=batched), plain)
    cached = comfyui.attach(model, policy=skipcache.Interval(2))
    assert not torch.equal(sample(cached, sampler=sampler, batched=batched), plain)
    assert kept(model.model.diffusion_model) == before
    assert torch.equal(sample(model, sampler=sampler, batched=batched), plain), "the model that was given is plain"


@pytest.mark.parametrize("batched", [True, False])
@each_sampler
def test_steps_are_those_of_the_policy_with_every_sampler(sampler, batched):
    """Second evaluations are lanes of their step. Heun's are first seen at step 1, which is full for that."""
    model = comfyui.attach(patcher(), policy=skipcache.Interval(3))
    sample(model, 12, sampler, batched=batched)
    expected = (0, 1, 3, 6, 9) if sampler is heun else (0, 3, 6, 9)
    assert full_at(model) == expected
    assert lines(model)[0] == f"skipcache: {len(expected)} full and {12 - len(expected)} cached steps"


def test_the_counts_of_blocks_are_those_of_the_steps():
    model = comfyui.attach(patcher(depth=6), policy=skipcache.Interval(3), keep=1)
    sample(model, 12)
    assert lines(model)[1] == f"{4 * 6 + 8 * 2} of {12 * 6} block evaluations, {72 / 40:.2f}x fewer"


@pytest.mark.parametrize("given", [{"speedup": 2.0}, {"interval": 2}, {"speedup": 2.5}])
def test_full_steps_are_placed_by_comfyui_s_sigmas(given):
    model = comfyui.attach(patcher(), **given)
    with pytest.warns(UserWarning, match="of 24 steps are full") if given == {"speedup": 2.5} else nullcontext():
        sample(model, 24)
    share = 1 / (given.get("speedup") or given["interval"])
    assert full_at(model) == skipcache.Spread(share).places(24, tuple(sigmas_of(24)[:-1].tolist()))


def test_the_first_full_steps_do_what_the_library_does_in_a_loop_of_its_own():
    """The same steps, lanes and features as a client's own loop over the module: equal to the bit."""
    model, loop = comfyui.attach(patcher(), policy=skipcache.Interval(3)), patcher()
    found = sample(model, 9)
    module = skipcache.accelerate(loop.model.diffusion_model, policy=skipcache.Interval(3), training="ignore")
    said = skipcache.run(module, "loop", (sigmas_of(9)[:-1] * 1000).tolist())
    levels = sigmas_of(9)[:-1].tolist()
    fixed = calls.Options()

    def still(options):
        fixed.update(options)
        return fixed

    def apply(executor, x, t, *more, **kwargs):
        with said.step(levels.index(float(t[0])), "both"):
            return executor(x, t, more[0], more[1], more[2], still(more[3]), **kwargs)

    loop.add_wrapper_with_key("apply_model", "loop", apply)
    assert torch.equal(sample(loop, 9), found) and said.report().full_at == (0, 3, 6)


@pytest.mark.parametrize(("start", "end", "expected"), [(0.3, 1.0, range(4, 12)), (0.0, 0.7, range(9))])
def test_steps_outside_of_the_part_run_the_plain_model(start, end, expected):
    model = comfyui.attach(patcher(), policy=skipcache.Interval(2), start_percent=start, end_percent=end)
    sample(model, 12)
    assert full_at(model) == tuple(i for i in expected if (i - expected.start) % 2 == 0)
    cached = len(expected) - len(full_at(model))
    assert lines(model)[0] == f"skipcache: {12 - cached} full and {cached} cached steps"


def test_a_part_without_steps_and_a_model_without_blocks_are_said_and_sampled_plain():
    model = patcher()
    plain = sample(model, 4)
    none = comfyui.attach(model, start_percent=0.9, end_percent=0.91)
    assert torch.equal(sample(none, 4), plain)
    assert "none of the run's 4 steps lies between 90% and 91% of sampling" in comfyui.report_of(none)
    unfit = comfyui.attach(model, speedup=2, interval=2)
    assert torch.equal(sample(unfit, 4), plain) and "exclude each other" in comfyui.report_of(unfit)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.8, 0.2)])
def test_a_part_that_is_none_is_refused(start, end):
    with pytest.raises(ValueError, match="expected 0 <= start_percent < end_percent <= 1, got"):
        comfyui.attach(patcher(), start_percent=start, end_percent=end)


def test_clones_in_turns_do_not_mix():
    model = patcher()
    clones = {n: comfyui.attach(model, policy=skipcache.Interval(n)) for n in (2, 3)}
    alone = {n: sample(comfyui.attach(patcher(), policy=skipcache.Interval(n))) for n in clones}
    for n in (2, 3, 2):
        assert torch.equal(sample(clones[n]), alone[n])
    assert (full_at(clones[2]), full_at(clones[3])) == ((0, 2, 4, 6, 8, 10), (0, 3, 6, 9))
    assert torch.equal(sample(comfyui.attach(clones[2], policy=skipcache.Interval(3))), alone[3]), "the last one counts"


def test_a_clone_of_a_later_node_tells_its_report_too():
    model = comfyui.attach(patcher(), policy=skipcache.Interval(3))
    later = model.clone()
    later.model_options = deepcopy(later.model_options)
    assert comfyui.report_of(model) == "skipcache: the model has not sampled yet"
    sample(later)
    assert comfyui.report_of(model) == comfyui.report_of(later)
    with pytest.raises(ValueError, match="went through SkipCache"):
        comfyui.report_of(patcher())


def test_a_run_that_is_interrupted_leaves_the_model_as_it_was():
    model = patcher()
    before, plain = kept(model.model.diffusion_model), sample(model)
    cached = comfyui.attach(model, policy=skipcache.Interval(3))
    expected = sample(cached)

    def interrupted(guider, sigmas, *more):
        euler(guider, sigmas[:6], *more)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(cached, sampler=interrupted)
    assert kept(model.model.diffusion_model) == before
    assert torch.equal(sample(model), plain) and torch.equal(sample(cached), expected)


def test_a_sampler_that_fails_before_its_first_call_fails_as_it_would_have():
    def failing(*_):
        raise RuntimeError("no such sampler")

    model = comfyui.attach(patcher(), policy=skipcache.Interval(3))
    with pytest.raises(RuntimeError, match="no such sampler"):
        sample(model, sampler=failing)
    assert lines(model)[0] == "skipcache: 0 full and 0 cached steps"


def test_a_sampler_that_samples_the_same_model_inside_runs_that_plain():
    model = patcher()
    plain = sample(model, 6)
    outer, inner, found = comfyui.attach(model, policy=skipcache.Interval(3)), comfyui.attach(model, interval=2), []

    def nested(guider, sigmas, *more):
        x = euler(guider, sigmas[:4], *more)
        found.append(sample(inner, 6))
        return x

    sample(outer, 12, nested)
    assert torch.equal(found[0], plain) and "sampled plain" in comfyui.report_of(inner)
    assert lines(outer)[0] == "skipcache: 1 full and 2 cached steps"


def test_a_pass_with_a_block_replaced_is_a_lane_of_its_own():
    """Skip-layer guidance: the same conds at the same sigma, with a patch."""
    model = patcher()

    def guided(guider, sigmas, extra_args, callback, noise, *_):
        options = extra_args["model_options"]
        patched = {**options, "transformer_options": {**options["transformer_options"], "patches_replace": PATCH}}
        x = noise
        for now, then in pairwise(sigmas):
            level = now * x.new_ones([len(x)])
            both, skipped = guider(x, level, options), guider.call(x, level, patched, [0])[0]
            x = x + (x - both - 0.5 * (both - skipped)) / now * (then - now)
        return x

    cached = comfyui.attach(model, policy=skipcache.Interval(3), keep=1)
    assert not torch.equal(sample(cached, 9, guided), sample(model, 9, guided))
    assert lines(cached)[:2] == [
        "skipcache: 3 full and 6 cached steps",
        f"{3 * 6 + 6 * 2 + 3 * 5 + 6 * 2} of {2 * 9 * 6} block evaluations, 1.89x fewer",
    ]


PATCH = {"dit": {2: lambda h: h}}


@pytest.mark.parametrize(
    ("level", "last", "expected"),
    [(1.0, 0, 0), (0.75, 0, 1), (0.75, 1, 1), (0.8, 0, 0), (0.6, 0, 1), (0.1, 1, 3), (0.9, 2, 2), (1.2, 0, 0)],
)
def test_a_sigma_tells_its_step(level, last, expected):
    found = steps.Steps.of(Flow(), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    assert found.at(level, last) == expected


def test_rising_sigmas_of_an_inversion_are_told_too():
    found = steps.Steps.of(Flow(), torch.tensor([0.01, 0.25, 0.5, 1.0]))
    assert [found.at(level, last) for level, last in ((0.01, 0), (0.25, 0), (0.3, 1), (0.5, 1))] == [0, 1, 1, 2]
    assert found.times.tolist() == pytest.approx([0.01, 0.25, 0.5]) and found.timesteps[1] == 250


def test_flow_times_follow_from_how_the_model_mixes_noise_and_image():
    class Exploding(Flow):
        def noise_scaling(self, sigma, noise, image, max_denoise=False):
            return noise * sigma.view(-1, 1) + image

        def percent_to_sigma(self, percent):
            return 99.0 * (1 - percent)

    found = steps.Steps.of(Exploding(), torch.tensor([9.0, 1.0, 0.25, 0.0]))
    assert found.times.tolist() == pytest.approx([0.9, 0.5, 0.2])


def test_who_is_called_is_told_by_conds_patches_window_and_size():
    class Window:
        index_list = (0, 1)

    x, hook = torch.zeros(2, 4, 4, 4), PATCH["dit"][2]
    seen = [
        calls.who_is_called(options, size)
        for options, size in (
            ({"uuids": [1, 2]}, x),
            ({"uuids": [2, 1]}, x),
            ({"uuids": [1, 2]}, x[:1]),
            ({"uuids": [1, 2], "context_window": Window}, x),
            ({"uuids": [1, 2], "patches_replace": PATCH}, x),
            ({"uuids": [1, 2], "patches_replace": {"dit": {3: hook}}}, x),
            ({"uuids": [1, 2], "patches": {"attn1": [hook]}}, x),
        )
    ]
    assert len(set(seen)) == len(seen)
    assert calls.who_is_called({"uuids": [1, 2], "sigmas": x}, x) == seen[0]


def test_nodes_take_a_model_and_give_one():
    node, inputs = nodes.SkipCache(), nodes.SkipCache.INPUT_TYPES()["required"]
    chosen = {name: kind[1]["default"] for name, kind in inputs.items() if len(kind) > 1}
    (model,) = getattr(node, node.FUNCTION)(patcher(), mode="interval", **chosen)
    (found,) = model.get_wrappers(sampling.SAMPLER, sampling.KEY)
    assert found.settings == {"interval": 3, "speedup": None}
    (other,) = getattr(node, node.FUNCTION)(model, mode="speedup", **chosen)
    assert other.get_wrappers(sampling.SAMPLER, sampling.KEY)[0].settings == {"interval": None, "speedup": 2.0}
    sample(model, 30)
    said = nodes.SkipCacheReport().report(model, "the latent")
    assert said["result"] == ("the latent", comfyui.report_of(model)) and said["ui"]["text"] == [
        comfyui.report_of(model)
    ]


def test_the_example_s_folder_hands_out_the_nodes_and_its_workflow_fits_them():
    spec = util.spec_from_file_location("skipcache_node", EXAMPLE / "skipcache_node" / "__init__.py")
    folder = util.module_from_spec(spec)
    spec.loader.exec_module(folder)
    assert folder.NODE_CLASS_MAPPINGS is comfyui.NODE_CLASS_MAPPINGS
    assert folder.NODE_DISPLAY_NAME_MAPPINGS.keys() == folder.NODE_CLASS_MAPPINGS.keys()
    workflow = json.loads((EXAMPLE / "workflow_api.json").read_text())
    ours = [node for node in workflow.values() if node["class_type"] in folder.NODE_CLASS_MAPPINGS]
    assert len(ours) == 2
    for node in ours:
        inputs = folder.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()["required"]
        assert node["inputs"].keys() == inputs.keys()
    linked = [value[0] for node in workflow.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert set(linked) <= workflow.keys()
