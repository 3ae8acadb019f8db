"""Programs by class: what is drawn for each kind of trouble."""

from dataclasses import replace

from hypothesis import strategies as st

from tests.models.fuzz.clients import Batch, Frames, Given, Inversion, Losses, Pass, Run, Served, Tiles, Twice
from tests.models.fuzz.denoiser import PREDICTORS, STATES
from tests.models.fuzz.world import Program

ENGINES = ("hooks", "fx")
EPSILON = ("ddim", "ddpm", "euler", "heun", "lcm")
SERVED = ("DDIM", "DDPM", "DPM++", "Ancestral", "Heun", "LCM", "PNDM", "PLMS")

STATELESS = ("DDIM", "DDPM")
NOISY = ("DDPM", "Ancestral", "LCM")

seeds = st.integers(0, 3)
counts = st.integers(2, 9)
texts = st.integers(0, 1)
ways = st.sampled_from(("vectors", "expanded", "copies", "views"))
givens = st.builds(Given, ways, st.booleans())
guidances = st.sampled_from(("none", "apart", "first", "batched"))


def maybe(strategy):
    return st.none() | strategy


@st.composite
def servings(draw, flow=False):
    """A pipeline's scheduler, or none; a flow model has its own kind."""
    return draw(maybe(st.builds(Served, st.just("Flow") if flow else st.sampled_from(SERVED), st.integers(0, 1))))


def samplers(flow):
    return st.just("flow") if flow else st.sampled_from(EPSILON)


@st.composite
def runs(draw, flow=False, **fixed):
    """A run in which nothing odd happens, but for what is `fixed`: values or strategies."""
    usual = {
        "sampler": samplers(flow),
        "steps": counts,
        "seed": seeds,
        "text": texts,
        "guidance": guidances,
        "served": servings(flow),
        "given": givens,
    }
    chosen = {name: draw(value) if isinstance(value, st.SearchStrategy) else value for name, value in fixed.items()}
    return Run(**{name: draw(value) for name, value in usual.items() if name not in chosen}, **chosen)


@st.composite
def turns(draw, clients):
    """None; in turns from the start, or with a start ahead of the others; or anything."""
    if clients == 1:
        return ()
    ahead = draw(st.integers(0, 6))
    regular = (0,) * ahead + tuple(range(clients)) * 12
    return draw(st.sampled_from(((), regular)) | st.lists(st.integers(0, clients - 1), max_size=30).map(tuple))


@st.composite
def programs(draw, clients, in_turn=True, threads=None):
    """`clients`: a strategy of tuples of them."""
    drawn = draw(clients)
    return Program(
        with_pipelines_of_their_own(drawn) if in_turn else drawn,
        draw(turns(len(drawn))) if in_turn else (),
        draw(st.sampled_from(ENGINES)),
        draw(st.booleans()),
        draw(st.integers(2, 4)),
        draw(st.sampled_from(sorted(PREDICTORS))),
        () if threads is None else tuple(draw(threads(len(drawn)))),
    )


def moves_unseen(program):
    """A window that moves, or stands alone at first, where its sample is not read: nothing tells it from another.

    Samples are not read on a device whose scheduler is known, nor where that scheduler draws noise.
    """
    return any(
        isinstance(client, Tiles)
        and (client.shift or client.late)
        and client.served is not None
        and (program.on_device or client.served.kind in NOISY)
        for client in program.clients
    )


def is_twice_the_same(program):
    """One noise, asked for twice at one time: each call goes on from the other's samples as well as from its own."""
    seeds = [client.seed for client in program.clients]
    return bool(program.turns or program.threads) and len(set(seeds)) < len(seeds)


def turns_unseen(program):
    """Another text at the second evaluation of one step: where samples are not read, and now and then where they are,
    it looks like another lane of that step."""
    return any(isinstance(client, Run) and client.turns > 1 and evaluates_twice(client) for client in program.clients)


def evaluates_twice(client):
    return client.sampler == "heun" if client.served is None else client.served.kind in ("Heun", "PNDM")


def shown(programs):
    hidden = (moves_unseen, is_twice_the_same, turns_unseen)
    return programs.filter(lambda program: not any(unseen(program) for unseen in hidden))


def with_pipelines_of_their_own(clients):
    """Runs in turns share no scheduler, for it counts their steps; one without a count they may, if they are alike."""
    kept = []
    for i, client in enumerate(clients):
        served = getattr(client, "served", None)
        shared = [one for one in kept if getattr(one, "served", None) == served]
        if served and shared and (served.kind not in STATELESS or any(one.steps != client.steps for one in shared)):
            client = replace(client, served=replace(served, number=2 + i))
        kept.append(client)
    return tuple(kept)


def either(strategy):
    """The same for both kinds of models."""
    return st.booleans().flatmap(strategy)


def several(one, least=2, most=3):
    return st.lists(one, min_size=least, max_size=most).map(tuple)


# The classes


passes = st.builds(Pass, st.sampled_from(STATES), st.integers(0, 2), st.integers(0, 3), st.integers(3, 99))
unbatched = st.sampled_from(("none", "apart", "first"))


def passed(flow):
    return runs(flow, other=passes, guidance=unbatched)


def requests(flow):
    return several(runs(flow))


batches = st.builds(
    Batch, several(st.integers(1, 7), 2, 4), seeds, texts, st.booleans(), st.integers(2, 3), st.booleans()
)
frames = st.builds(Frames, st.integers(3, 6), seeds, texts, st.integers(0, 2), st.sampled_from((2, 4)), st.booleans())
per_row = st.one_of(batches, frames)

starts = st.sampled_from(((0, 64), (0, 48), (0, 16), (0, 40, 80), (0, 32, 64, 96), (0,)))


@st.composite
def tiles(draw, flow):
    served = draw(servings(flow))
    drawn = draw(starts)
    shift, late = draw(st.sampled_from((0, 0, 4, 16, 64))), draw(st.integers(0, 3)) if len(drawn) > 1 else 0
    sampler = draw(samplers(flow))
    if sampler == "heun" and served is None:
        shift = 0  # a window that is called at every second evaluation seems to be called at each step
    return Tiles(sampler, draw(st.integers(3, 7)), draw(seeds), 0, drawn, shift, late, served, draw(givens))


twice = st.builds(Twice, counts, seeds, texts, givens)
losses = st.builds(Losses, st.integers(2, 9), seeds, texts, givens)
lone = runs(guidance="none", stop=1)
# From the last image, at a time before the run's last one, with its text, the inversion would be the run's next step.
inverted = st.tuples(runs(text=0), st.builds(Inversion, counts, seeds, st.just(1), givens))


@st.composite
def gone_through_twice(draw):
    """One scheduler's timesteps, set once. Of those that keep no state only, as others fail by themselves."""
    first = draw(runs(served=Served(draw(st.sampled_from(STATELESS))), stop=maybe(st.integers(1, 4))))
    second = draw(runs(served=first.served, steps=first.steps, text=first.text, again=True))
    return first, second


odd_runs = st.one_of(
    gone_through_twice(),
    st.tuples(twice),
    st.tuples(losses),
    st.tuples(lone, runs()),
    inverted,
    st.tuples(runs(), losses),
)


def swapped(flow):
    named = st.builds(Given, ways, st.booleans(), st.booleans())
    one = runs(
        flow, swap=maybe(st.integers(1, 5)), turns=st.sampled_from((1, 1, 2, 3)), given=named, guided=st.integers(0, 3)
    )
    return several(one, 1, 2)


def stopped(flow):
    """One after another; an image that is begun with has noise of its own, as in img2img."""
    one = runs(
        flow, stop=maybe(st.integers(1, 5)), breaks=maybe(st.integers(0, 6)), begin=st.sampled_from((0, 0, 1, 2, 4))
    )
    return several(one, 2, 4).filter(begin_with_noise_of_their_own)


def begin_with_noise_of_their_own(clients):
    """The same noise at a lower timestep may be the very next sample of the run that stopped: no evidence tells."""
    seen = set()
    for client in clients:
        if client.begin and client.seed in seen:
            return False
        seen.add(client.seed)
    return True


def own_threads(count):
    return st.just([(i,) for i in range(count)])


def hops(count):
    return st.lists(several(st.integers(0, 2), 1, 4), min_size=count, max_size=count)


anything = st.one_of(
    runs(), runs(other=passes, guidance=unbatched), runs(stop=st.integers(1, 4)), batches, tiles(False), twice, losses
)

CLASSES = {
    "other states": shown(programs(either(lambda flow: several(passed(flow), 1, 2)), in_turn=False)),
    "other states in turns": shown(programs(either(lambda flow: several(passed(flow), 2, 2)))),
    "requests in turns": shown(programs(either(requests))),
    "rows and frames": shown(programs(several(per_row, 1, 2))),
    "tiles and windows": shown(programs(either(lambda flow: several(tiles(flow), 1, 1)))),
    "tiles in turns": shown(programs(either(lambda flow: several(tiles(flow), 2, 2)))),
    "odd runs": shown(programs(odd_runs, in_turn=False)),
    "prompts": shown(programs(either(swapped))),
    "stopped and begun again": shown(programs(either(stopped), in_turn=False)),
    "a thread each": shown(programs(either(requests), threads=own_threads)),
    "hopping threads": shown(programs(either(lambda flow: several(runs(flow), 1, 2)), threads=hops)),
    "anything": shown(programs(several(anything, 2, 3))),
}

# Plain sequences, of which it is known what they save


def plain(flow):
    return several(
        runs(
            flow,
            sampler=st.just("flow") if flow else st.sampled_from(("ddim", "euler", "heun")),
            steps=st.integers(6, 20),
            served=maybe(
                st.builds(Served, st.just("Flow") if flow else st.sampled_from(("DDIM", "DPM++", "Heun", "PNDM")))
            ),
        ),
        1,
        3,
    )


def is_in_doubt(program):
    """On a device, with a text that is rebuilt and a scheduler that is known, nothing need show that a step went by."""
    return program.on_device and any(client.served and client.given.rebuilt for client in program.clients)


PLAIN = programs(either(plain), in_turn=False).filter(lambda program: not is_in_doubt(program))
