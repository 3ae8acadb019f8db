"""Runs a program of clients on one accelerated denoiser, and judges each call by what it truly was.

What is wrong. A row of a cached call used the feature of a full call's row. That is right only if

- both rows are of the same run, the same lane (sequence and text) and the same state of the model, and
- the full one is older by at most `interval - 1` evaluations of the run, and
- if it is of the same evaluation, both were given equal x, t and text: the call repeated it.

Two runs that are given the very same have equal features: each may use the other's. Where a predictor used a second
feature, that one must be of the same run, lane and state too.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import torch

import skipcache
from tests.models.devices import as_on_device
from tests.models.fuzz.denoiser import Pipe, call, denoiser, settings
from tests.models.fuzz.samplers import SCHEDULERS


@dataclass(frozen=True)
class Program:
    """turns: which client makes the next call; one that is over is passed by, and at last all run to their ends.

    threads: of each client, those on which its calls are made, in turn; 0 is the main thread.
    """

    clients: tuple
    turns: tuple = ()
    engine: str = "hooks"
    on_device: bool = False
    interval: int = 3
    predictor: str = "hold"
    threads: tuple = ()

    def __repr__(self):
        where = "as on a device" if self.on_device else "on the host"
        lines = [f"{self.engine}, {where}, interval {self.interval}, {self.predictor}"]
        for i, client in enumerate(self.clients):
            on = f" on threads {self.threads[i]}" if self.threads else ""
            lines.append(f"  {name_of(i)} = {client!r}{on}")
        turns = " ".join(map(name_of, self.turns))
        return "\n".join([*lines, f"  turns: {turns + ', then ' * bool(turns)}each to its end"])


def name_of(i):
    return chr(ord("A") + i)


@dataclass(eq=False)
class Made:
    """One row of a call that was made: what it was, what it was given, and the row whose feature it used."""

    row: object
    x: torch.Tensor
    t: object
    text: torch.Tensor
    source: "Made | None" = None
    verdicts: tuple = ()

    @property
    def full(self):
        return self.source is self

    def __repr__(self):
        said = "" if self.row.state == "plain" else f" ({self.row.state})"
        return f"{self.row.run} {self.row.lane} step {self.row.step}{said}"


@dataclass(eq=False)
class World:
    """The model, what was made of it, and what clients share: texts, pipelines, the last image."""

    program: Program
    made: list = field(default_factory=list)
    texts: dict = field(default_factory=dict)
    pipes: dict = field(default_factory=dict)
    image: torch.Tensor | None = None

    def __post_init__(self):
        program = self.program
        flow = program.clients[0].is_flow
        assert all(client.is_flow == flow for client in program.clients), "one model predicts one thing"
        self.model = denoiser(program.engine, program.interval, program.predictor, flow)
        skipcache.reset(self.model)

    def text(self, number):
        """Another mean of the data for each number."""
        if number not in self.texts:
            self.texts[number] = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1000 + number))
        return self.texts[number]

    def pipe(self, served):
        if served not in self.pipes:
            program = self.program
            pipe = self.pipes[served] = Pipe(self.model, SCHEDULERS[served.kind]())
            skipcache.accelerate(pipe, **settings(program.engine, program.interval, program.predictor))
        return self.pipes[served]

    def has_started(self, served):
        return served in self.pipes and self.pipes[served].scheduler.num_inference_steps is not None

    def finish(self, image):
        self.image = image

    # running

    def run(self):
        program = self.program
        try:
            with ExitStack() as stack:
                if program.on_device:
                    stack.enter_context(as_on_device())
                on_thread = Threads(stack)
                running = [Running(self, i, on_thread) for i in range(len(program.clients))]
                for i in program.turns:
                    running[i].turn()
                for one in running:
                    while one.turn():
                        pass
        finally:
            if any(row.row.state != "plain" for row in self.made):
                denoiser.cache_clear()  # who changes a model may take off what the engines put on it
        return self

    def make(self, ask):
        """One call, judged; None where it was to break and did."""
        numbers = [len(self.made) + 1 + i for i in range(len(ask.rows))]
        times = ask.t.reshape(-1) if isinstance(ask.t, torch.Tensor) else [ask.t]
        times = times if len(times) == len(ask.rows) else [ask.t] * len(ask.rows)
        rows = [Made(*of) for of in zip(ask.rows, ask.x.clone(), times, ask.text)]
        self.made += rows
        e, used = self.output(ask, numbers)
        for row, pair in zip(rows, used.long().tolist()):
            row.source, *more = dict.fromkeys(self.made[number - 1] for number in pair)
            row.verdicts = tuple(self.verdicts(row, more))
        return e

    def output(self, ask, numbers):
        self.model.numbers.now = torch.tensor(numbers, dtype=torch.float32)
        named = self.model.cache_context(ask.named) if ask.named else nullcontext()
        one = partial(call, self.model, ask.state, ask.x, ask.t, ask.text)
        with torch.no_grad(), named, broken(self.model) if ask.breaks else nullcontext():
            return one() if ask.served is None else self.pipe(ask.served).call(one)

    def verdicts(self, row, more):
        """Why the use of a feature was wrong."""
        source, *more = (self.own(row, other) for other in (row.source, *more))
        if source is row:
            return
        for other in (source, *more):
            for what in ("run", "lane", "state"):
                if getattr(row.row, what) != getattr(other.row, what):
                    yield f"another {what}"
        age = row.row.step - source.row.step
        if age == 0 and not is_repeat(row, source):
            yield "another sample of this step"
        if age >= self.program.interval:
            yield f"{age} steps old"

    def own(self, row, source):
        """`source`, or the row of `row`'s own run, lane and state that was given the very same."""
        if source.row.of != row.row.of and source.row.state == row.row.state:
            return next((made for made in self.made if made.row.of == row.row.of and is_repeat(made, source)), source)
        return source

    # what came of it

    @property
    def wrong(self):
        return [row for row in self.made if row.verdicts]

    @property
    def lost(self):
        """Full calls of plain runs that the policy would have cached.

        Where no scheduler is known, an evaluation at the timestep of the one before is full (Heun's second one).
        """
        found, last = [], None
        for row in self.made:
            here = row.row.run, row.row.step
            if last is None or here != (last.row.run, last.row.step):
                client = self.program.clients[ord(here[0]) - ord("A")]
                again = last is not None and here[0] == last.row.run and torch.equal(row.t, last.t)
                forced, last = again and client.served is None, row
            if row.full and not forced and row.row.step % self.program.interval:
                found.append(row)
        return found

    def __str__(self):
        """All calls, one line per row, and what `report` says of them."""
        lines = [repr(self.program)]
        for i, row in enumerate(self.made):
            t = torch.as_tensor(row.t).flatten()[0].item()
            used = "broke" if row.source is None else "full" if row.full else f"used {row.source}"
            wrong = f"   <-- {', '.join(row.verdicts)}" if row.verdicts else ""
            lines.append(f"{i + 1:4} {row} t={t:g}: {used}{wrong}")
        return "\n".join([*lines, *(f"  report: {reason}" for reason in skipcache.report(self.model).reasons)])


def is_repeat(row, source):
    same = torch.equal(row.x, source.x) and torch.equal(row.text, source.text)
    return same and torch.equal(torch.as_tensor(row.t), torch.as_tensor(source.t))


class Broken(Exception):
    pass


@contextmanager
def broken(model):
    """The last block raises."""

    def raises(module, args):
        raise Broken

    handle = model.blocks[3].register_forward_pre_hook(raises)
    try:
        yield
    finally:
        handle.remove()


class Running:
    """A client under way."""

    def __init__(self, world, i, on_thread):
        self.world, self.on_thread = world, on_thread
        self.asks, self.answer = world.program.clients[i].asks(world, name_of(i)), None
        self.threads = cycle(world.program.threads[i] if world.program.threads else (0,))

    def turn(self):
        """Its next call, if there is one."""
        try:
            ask = self.asks.send(self.answer)
            self.answer = self.on_thread(next(self.threads), partial(self.world.make, ask))
        except (StopIteration, Broken):
            self.asks.close()
            return False
        return True


class Threads:
    """Threads by number; 0 is the calling one."""

    def __init__(self, stack):
        self.stack, self.pools = stack, {}

    def __call__(self, number, function):
        if not number:
            return function()
        if number not in self.pools:
            self.pools[number] = self.stack.enter_context(ThreadPoolExecutor(1))
        return self.pools[number].submit(function).result()
