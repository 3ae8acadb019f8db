"""What processes do for test_context.py."""

import skipcache
from tests.models.distributed.sharded import build, context, equal, far, sample

NAMES = ("flux_dev", "wan", "qwen_image", "ltx")


def exactness(rank, name):
    """By keep and engine: an uncached run is the plain sharded one, and a cached one is that of a single process."""
    found = {}
    plain = sample(name, context(build(name)))
    for keep in (1, 0):
        alone = skipcache.accelerate(build(name), interval=3, keep=keep)
        expected = sample(name, alone)
        for engine in ("fx", "hooks"):
            exact = skipcache.accelerate(context(build(name)), interval=1, keep=keep, engine=engine)
            model = context(skipcache.accelerate(build(name), interval=3, keep=keep, engine=engine))
            outputs = sample(name, model)
            report = skipcache.report(model)
            found[keep, engine] = {
                "uncached": equal(sample(name, exact, steps=2), plain[:2]),
                "far": far(outputs, expected),
                "from_plain": far(outputs, plain),
                "as_alone": report.full_at == skipcache.report(alone).full_at,
                "cached": report.cached_steps,
                "engine": report.engine,
                "reasons": report.reasons,
            }
    skipcache.restore(model)
    found["restored"] = equal(sample(name, model, steps=2), plain[:2])
    return found
