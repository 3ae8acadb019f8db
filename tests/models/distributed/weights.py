"""What processes do for test_weights.py: weights that are divided over two of them, by FSDP2 and tensor parallelism."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

import skipcache
from skipcache import training
from skipcache.branches import branches_of
from tests.models.distributed.sharded import build, equal, everyone, far, fsdp, sample, tensors

ENGINES = ("fx", "hooks")


@contextmanager
def gathers(model):
    """Counts how often the weights of each FSDP module are gathered, by its path."""
    import torch.distributed.fsdp._fully_shard._fsdp_param_group as groups

    paths = {
        id(m._get_fsdp_state()._fsdp_param_group): p for p, m in model.named_modules() if isinstance(m, FSDPModule)
    }
    counts, plain = Counter(), groups.FSDPParamGroup.unshard

    def unshard(self, *args, **kwargs):
        counts[paths[id(self)]] += not self.is_unsharded and self._all_gather_result is None
        return plain(self, *args, **kwargs)

    groups.FSDPParamGroup.unshard = unshard
    try:
        yield counts
    finally:
        groups.FSDPParamGroup.unshard = plain


def gathered(rank):
    """By engine: outputs are those of a single process, and how often the weights of each block are gathered."""
    found = {}
    plain = sample("wan", fsdp(build("wan")))
    for engine in ENGINES:
        expected = sample("wan", skipcache.accelerate(build("wan"), interval=3, engine=engine))
        model = skipcache.accelerate(fsdp(build("wan")), interval=3, engine=engine)
        first = sample("wan", model)
        with gathers(model) as counts:
            again = sample("wan", model)
        report = skipcache.report(model)
        skipcache.restore(model)
        found[engine] = {
            "equal": equal(first, expected) and equal(again, expected),
            "gathers": dict(counts),
            "speedup": report.ideal_speedup,
            "reasons": report.reasons,
            "restored": equal(sample("wan", model), plain),
        }
        exact = skipcache.accelerate(fsdp(build("wan")), interval=1, engine=engine)
        found[engine]["exact"] = equal(sample("wan", exact, steps=2), plain[:2])
    alone = skipcache.accelerate(build("wan"), interval=3)
    sample("wan", alone)
    return found, skipcache.report(alone).ideal_speedup


def mixed(rank):
    """Blocks that compute in bfloat16 and hand out float32: both engines are equal."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    found = {}
    for name in ("wan", "sd3"):
        for keep in (1, 0):
            outputs = [
                sample(name, skipcache.accelerate(fsdp(build(name), mp_policy=policy), interval=3, keep=keep, engine=e))
                for e in ENGINES
            ]
            found[name, keep] = equal(*outputs)
    return found


def parallel_tensors(rank):
    """Tensor parallelism: equal engines, exact uncached runs, and those of a single process within rounding."""
    plain = sample("wan", tensors(build("wan")))
    expected = sample("wan", skipcache.accelerate(build("wan"), interval=3))
    outputs = [sample("wan", skipcache.accelerate(tensors(build("wan")), interval=3, engine=e)) for e in ENGINES]
    exact = sample("wan", skipcache.accelerate(tensors(build("wan")), interval=1), steps=2)
    return {"equal": equal(*outputs), "far": far(outputs[0], expected), "exact": equal(exact, plain[:2])}


def branches(rank, folder):
    """Branches of a sharded model: grafted before, saved and loaded whole, trained together."""
    found = {}
    try:
        skipcache.graft(fsdp(build("wan")))
    except ValueError as error:
        found["late"] = str(error)
    model = skipcache.graft(build("wan"))
    with torch.no_grad():
        for i, p in enumerate(branches_of(model).parameters()):
            p.fill_(0.01 * (i + 1))
    expected = sample("wan", model, steps=2)
    sharded = fsdp(model)
    found["kept"] = far(sample("wan", sharded, steps=2), expected)
    file = skipcache.save_branches(sharded, Path(folder) / "branches.safetensors")
    found["loaded"] = far(sample("wan", skipcache.load_branches(build("wan"), file), steps=2), expected)
    empty = fsdp(skipcache.graft(build("wan")))
    found["loaded_sharded"] = far(sample("wan", skipcache.load_branches(empty, file), steps=2), expected)
    found["trained"] = everyone(trained())
    return found


def trained():
    """How much the branches moved, where a run was recorded before the backbone was frozen."""
    model = fsdp(skipcache.graft(build("wan").requires_grad_(True)))
    run = training.record_run(model, lambda: sample("wan", model, steps=4))
    optimizer = torch.optim.AdamW(training.freeze_backbone(model), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        training.distillation_loss(model, run, generator=generator).backward()
        optimizer.step()
        optimizer.zero_grad()
    training.branch_parameters(model)  # sharded again
    weights = [
        p.detach().full_tensor()
        for name, p in model.named_parameters()
        if "skip_branches" in name and "linear.w" in name
    ]
    return sum(float(w.abs().sum()) for w in weights)
