"""Clients of a denoiser: what each calls, in which order, and what each call truly is.

A client is a frozen description. Its `asks` is a coroutine that yields an `Ask` per call and is sent the output.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch

from tests.models.fuzz.samplers import SAMPLERS, Draw, data, falling, noised, scheduled

TOKENS = 64


@dataclass(frozen=True)
class Row:
    """What one row of a call truly is. `step` counts the evaluations of its run; a lane is one sequence within it."""

    run: Any
    lane: Any
    step: int
    state: str = "plain"

    @property
    def of(self):
        return self.run, self.lane, self.state


@dataclass(eq=False)
class Ask:
    """A call to make: x (B, T, C), t, text (B, W, C), and what each row of it is."""

    x: torch.Tensor
    t: Any
    text: torch.Tensor
    rows: tuple
    served: "Served | None" = None
    named: str | None = None
    breaks: bool = False

    @property
    def state(self):
        return self.rows[0].state


class Client:
    """Its text leaves out what is as usual."""

    is_flow = False

    def __repr__(self):
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True)
class Served:
    """The scheduler `kind` of a pipeline that the model is accelerated for. Equal ones are one pipeline."""

    kind: str
    number: int = 0


@dataclass(frozen=True)
class Given:
    """How a loop hands on its arguments: `way` of the timestep, the text `rebuilt` for each call, calls `named`."""

    way: str = "vectors"
    rebuilt: bool = False
    named: bool = False

    def timestep(self, t, batch):
        t = t if isinstance(t, torch.Tensor) else torch.tensor(float(t))
        return {
            "views": lambda: t,
            "expanded": lambda: t.expand(batch),
            "copies": lambda: t.clone(),
            "vectors": lambda: t.repeat(batch),
            "floats": t.item,
        }[self.way]()


@dataclass(frozen=True)
class Pass:
    """One more pass per step over (x, t, text) under another state: `place` in the order of calls, from, to."""

    state: str
    place: int = 1
    start: int = 0
    stop: int = 99


@dataclass(frozen=True, repr=False)
class Run(Client):
    """One image.

    guidance: "none", "apart" (unconditional last), "first" (unconditional first), "batched"; from step `guided` on.
    begin: img2img, from this step on. stop: it is left after so many steps. breaks: the block raises at this call.
    swap: from this step on another text. turns: so many texts in turn, one per step.
    """

    sampler: str = "ddim"
    steps: int = 6
    seed: int = 0
    text: int = 0
    guidance: str = "none"
    guided: int = 0
    other: Pass | None = None
    served: Served | None = None
    again: bool = False
    given: Given = Given()
    begin: int = 0
    stop: int | None = None
    breaks: int | None = None
    swap: int | None = None
    turns: int = 1

    @property
    def is_flow(self):
        return self.sampler == "flow" if self.served is None else self.served.kind == "Flow"

    def words(self, step):
        return self.text + (self.swap is not None and step >= self.swap) + 2 * (step % self.turns)

    def evaluations(self, world, draw):
        noise = draw((1, TOKENS, 8))
        image = data(draw, world.text(self.text), noise.shape) if self.begin else None
        if self.served is not None:
            again = self.again and world.has_started(self.served)
            scheduler = world.pipe(self.served).scheduler
            return scheduled(self.served.kind, scheduler, self.steps, noise, draw, self.begin, image, again)
        times = falling(self.steps)[min(self.begin, self.steps - 1) :]
        x = noised(image, times[0], noise, self.is_flow) if self.begin else noise
        return SAMPLERS[self.sampler](x, times, draw)

    def passes(self, step):
        """(lane, state) of each call of a step, in order."""
        lanes = ["cond"]
        if self.guidance in ("apart", "first") and step >= self.guided:
            lanes = ["uncond", "cond"] if self.guidance == "first" else ["cond", "uncond"]
        calls = [(lane, "plain") for lane in lanes]
        if self.other is not None and self.other.start <= step < self.other.stop:
            calls.insert(self.other.place, ("cond", self.other.state))
        return calls

    def asks(self, world, me):
        run, count = self.evaluations(world, Draw(self.seed)), 0
        texts = Texts(world, self.given.rebuilt)
        for step, (x, t, send) in enumerate(driven(run, world.finish)):
            if step == self.stop:
                return
            outputs = {}
            if self.guidance == "batched" and step >= self.guided:
                e, count = yield from self.batched(x, t, step, texts, me, count)
                outputs = dict(zip(("uncond", "cond"), e.split(1)))
            else:
                for lane, state in self.passes(step):
                    number = 9 if lane == "uncond" else self.words(step)
                    row = Row(me, (lane, number), step, state)
                    name = lane if self.given.named else None
                    given = self.given.timestep(t, 1)
                    broken = count == self.breaks
                    e = yield Ask(x, given, texts(number), (row,), self.served, name, broken)
                    count += 1
                    if state == "plain":
                        outputs[lane] = e
            e = outputs["cond"]
            send(e + 1.5 * (e - outputs["uncond"]) if "uncond" in outputs else e)

    def batched(self, x, t, step, texts, me, count):
        numbers = 9, self.words(step)
        rows = tuple(Row(me, lane, step) for lane in zip(("uncond", "cond"), numbers))
        name = "cond_uncond" if self.given.named else None
        given = self.given.timestep(t, 2)
        ask = Ask(torch.cat([x, x]), given, texts(*numbers), rows, self.served, name, count == self.breaks)
        return (yield ask), count + 1


class Texts:
    """The text tensors of one run: the same each time, or rebuilt."""

    def __init__(self, world, rebuilt):
        self.world, self.rebuilt, self.made = world, rebuilt, {}

    def __call__(self, *numbers):
        if numbers not in self.made:
            parts = [self.world.text(number) for number in numbers]
            self.made[numbers] = torch.cat(parts) if len(parts) > 1 else parts[0]
        return self.made[numbers].clone() if self.rebuilt else self.made[numbers]


def driven(run, ended=lambda x: None):
    """A sampler's coroutine as (x, t, send): `send` takes the output. `ended` is called with its last sample."""
    try:
        x, t = next(run)
        while True:
            answer = []
            yield x, t, answer.append
            x, t = run.send(answer[0])
    except StopIteration as over:
        ended(over.value)


@dataclass(frozen=True, repr=False)
class Tiles(Client):
    """Several windows of one canvas per step, all with one text.

    starts: where they begin. shift: how far all move from step to step, around the canvas. late: the last one joins at
    this step.
    """

    sampler: str = "euler"
    steps: int = 5
    seed: int = 0
    text: int = 0
    starts: tuple = (0, 48)
    shift: int = 0
    late: int = 0
    served: Served | None = None
    given: Given = Given()
    canvas: int = 128

    @property
    def is_flow(self):
        return self.sampler == "flow" if self.served is None else self.served.kind == "Flow"

    def asks(self, world, me):
        draw, texts = Draw(self.seed), Texts(world, self.given.rebuilt)
        x = draw((1, self.canvas, 8))
        if self.served is None:
            run = SAMPLERS[self.sampler](x, falling(self.steps), draw)
        else:
            run = scheduled(self.served.kind, world.pipe(self.served).scheduler, self.steps, x, draw)
        for step, (x, t, send) in enumerate(driven(run)):
            total, weight = torch.zeros_like(x), torch.zeros(self.canvas)[:, None]
            for start in self.starts if step >= self.late else self.starts[:-1]:
                at = (start + step * self.shift) % self.canvas
                index = torch.arange(at, at + TOKENS) % self.canvas
                row = Row(me, at, step)
                e = yield Ask(x[:, index], self.given.timestep(t, 1), texts(self.text), (row,), self.served)
                total[:, index] += e
                weight[index] += 1
            send(total / weight.clamp_min(1))


@dataclass(frozen=True, repr=False)
class Batch(Client):
    """A batch that goes on while its rows are replaced: row i takes the next request when its own one is over.

    steps: of the requests, in order. Each row has its own timestep, so that they are vectors of unequal values.
    """

    steps: tuple = (4, 6, 5)
    seed: int = 0
    text: int = 0
    same: bool = True  # all requests have one text
    rows: int = 2
    rebuilt: bool = False

    def asks(self, world, me):
        waiting = list(enumerate(self.steps))
        texts, slots = Texts(world, self.rebuilt), []
        while True:
            for i, slot in enumerate(slots):
                if slot.over and waiting:
                    slots[i] = self.slot(world, *waiting.pop(0))
            while len(slots) < self.rows and waiting:
                slots.append(self.slot(world, *waiting.pop(0)))
            if all(slot.over for slot in slots):
                return
            x = torch.cat([slot.x for slot in slots])
            t = torch.tensor([slot.t for slot in slots])
            rows = tuple(Row((me, slot.number), slot.text, slot.step) for slot in slots)
            e = yield Ask(x, t, texts(*(slot.text for slot in slots)), rows)
            for slot, part in zip(slots, e.split(1)):
                slot.send(part)

    def slot(self, world, number, steps):
        return Slot(number, steps, self.seed + number, self.text + (0 if self.same else number))


class Slot:
    """One request in a row of a batch. When it is over it keeps its last sample until it is replaced."""

    def __init__(self, number, steps, seed, text):
        self.number, self.text, self.step, self.over = number, text, 0, False
        draw = Draw(seed)
        self.run = SAMPLERS["ddim"](draw((1, TOKENS, 8)), falling(steps), draw)
        self.x, self.t = next(self.run)

    def send(self, e):
        if self.over:
            return
        try:
            self.x, self.t = self.run.send(e)
            self.step += 1
        except StopIteration:
            self.over = True


@dataclass(frozen=True, repr=False)
class Frames(Client):
    """Frames that are denoised one behind another (diffusion forcing): a timestep per frame, (1, F)."""

    steps: int = 5
    seed: int = 0
    text: int = 0
    lag: int = 1
    frames: int = 4
    rebuilt: bool = False

    def asks(self, world, me):
        draw, texts, times = Draw(self.seed), Texts(world, self.rebuilt), falling(self.steps)
        size = TOKENS // self.frames
        last = [draw((1, size, 8)) for _ in range(self.frames)]
        runs = [driven(SAMPLERS["ddim"](x, times, draw), partial(last.__setitem__, i)) for i, x in enumerate(last)]
        at = [next(run) for run in runs]
        for step in range(self.steps + self.lag * (self.frames - 1)):
            t = torch.tensor([[0.0 if one is None else one[1] for one in at]])
            x = torch.cat([one[0] if one else done for one, done in zip(at, last)], 1)
            e = yield Ask(x, t, texts(self.text), (Row(me, "frames", step),))
            for i, part in enumerate(e.split(size, 1)):
                if 0 <= step - i * self.lag < self.steps:
                    at[i][2](part)
                    at[i] = next(runs[i], None)


@dataclass(frozen=True, repr=False)
class Twice(Client):
    """Asks twice at each (t, text) with other noise, as a sampler that averages two draws does."""

    steps: int = 5
    seed: int = 0
    text: int = 0
    given: Given = Given()

    def asks(self, world, me):
        draw, texts = Draw(self.seed), Texts(world, self.given.rebuilt)
        image = data(draw, world.text(self.text), (1, TOKENS, 8))
        for step, t in enumerate(falling(self.steps)[:-1]):
            for draws in range(2):
                x = noised(image, t, draw(image.shape))
                yield Ask(x, self.given.timestep(t, 1), texts(self.text), (Row(me, f"draw {draws}", step),))


@dataclass(frozen=True, repr=False)
class Losses(Client):
    """Validation losses with one caption: each call is another image, noise and timestep."""

    calls: int = 6
    seed: int = 0
    text: int = 0
    given: Given = Given()

    def asks(self, world, me):
        draw, texts = Draw(self.seed), Texts(world, self.given.rebuilt)
        for call in range(self.calls):
            image = data(draw, world.text(self.text), (1, TOKENS, 8))
            t = float(torch.randint(1, 1000, (), generator=draw.generator))
            x = noised(image, t, draw(image.shape))
            yield Ask(x, self.given.timestep(t, 1), texts(self.text), (Row((me, call), "loss", 0),))


@dataclass(frozen=True, repr=False)
class Inversion(Client):
    """From the data to the noise, t rising, as DDIM inversion goes; from the last image that was made, if any."""

    steps: int = 6
    seed: int = 0
    text: int = 0
    given: Given = Given()

    def asks(self, world, me):
        draw, texts = Draw(self.seed), Texts(world, self.given.rebuilt)
        x = data(draw, world.text(self.text), (1, TOKENS, 8)) if world.image is None else world.image
        run = SAMPLERS["ddim"](x, [1.0, *falling(self.steps)[-2::-1]], draw)
        for step, (x, t, send) in enumerate(driven(run)):
            e = yield Ask(x, self.given.timestep(t, 1), texts(self.text), (Row(me, "inversion", step),))
            send(e)
