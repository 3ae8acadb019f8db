"""Agreement of the processes that hold one model together, so that none skips a block that another one waits in.

All run one program. So what they see of identity (which tensor, which scheduler) is alike, and what they read of values
may differ: each may hold other samples, or another part of one. Whatever rests on values is agreed on. A static policy
whose scheduler is known reads nothing on a device, and then there is nothing to agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from skipcache.blocks import groups_of, named_group, on_host, sequence_group
from skipcache.trajectory.call import Call
from skipcache.trajectory.places import Repeat, Visit

T = TypeVar("T")
Agree = bool | str

DIFFERED = (
    "the processes that hold the model together did not place a call alike, so that all of them began a run anew; "
    "give them equal timesteps and as many calls"
)
RAISED = "another process that holds a part of this model could not place this call; see its error"


class Processes:
    """Those that hold one model together.

    Args:
        groups: process groups, over each of which something of the model is divided.
        sequence: the group that divides each image's tokens; None where they are whole.
        always: agree on each call, whatever was read.
    """

    def __init__(self, groups: Sequence[Any], sequence: Any = None, always: bool = False) -> None:
        self.groups, self.sequence, self.always = tuple(groups), sequence, always

    def settle(
        self, call: Call, place: Callable[[], Visit | Repeat], anew: Callable[[], Visit | Repeat]
    ) -> Visit | Repeat:
        """What `place` says of `call`, the same on all processes.

        It is full where it is full on any. Where they do not place it alike all of them go by `anew`. Where `place`
        raises on one of them, all raise.
        """
        visit, trouble = None, None
        try:
            visit = place()
        except Exception as error:
            trouble = error
        if visit is not None and not self._asks(call, visit):
            return visit
        said = _said(visit)
        least, most = self._extremes(said, call.sample.device)
        if most[0]:
            raise trouble or RuntimeError(RAISED)
        assert visit is not None
        if least[:-1] != most[:-1]:
            begun = anew()
            return replace(begun, doubt=DIFFERED) if isinstance(begun, Visit) else begun
        return visit.run.insist(visit) if isinstance(visit, Visit) and most[-1] else visit

    def agree(self, holds: bool, device: torch.device) -> bool:
        """It holds on all processes, or on none."""
        least, most = self._extremes([int(holds)], device)
        return least == most

    def first(self, value: T) -> T:
        """The `value` of the first process."""
        box = [value]
        for group in self.groups:
            distributed.broadcast_object_list(box, src=distributed.get_global_rank(group, 0), group=group)
        return box[0]

    def total(self, x: Tensor) -> Tensor:
        """x, summed over the processes that hold other tokens of the same images."""
        if self.sequence is not None:
            x = x.contiguous()
            distributed.all_reduce(x, group=self.sequence)
        return x

    def _asks(self, call: Call, visit: Visit | Repeat) -> bool:
        looked = isinstance(visit, Repeat) or visit.compared or (visit.opens_step and visit.at.looked)
        return self.always or looked or on_host(call.sample)

    def _extremes(self, numbers: Sequence[int], device: torch.device) -> tuple[list[int], list[int]]:
        """The least and the largest of each number."""
        vote = torch.tensor([*numbers, *(-n for n in numbers)], device=device)
        for group in self.groups:
            distributed.all_reduce(vote, op=distributed.ReduceOp.MAX, group=group)
        most, least = vote.reshape(2, -1).tolist()
        return [-n for n in least], most


def _said(visit: Visit | Repeat | None) -> list[int]:
    """A visit in numbers: could not be placed, a repeat, its step, the one before, its lane, of how many; and full."""
    if isinstance(visit, Visit):
        lanes = visit.run.lanes.all
        return [0, 0, visit.step, visit.at.before, lanes.index(visit.lane), len(lanes), int(visit.full)]
    return [int(visit is None), 1, 0, 0, 0, 0, 0]


class Sharing:
    """The processes of one model, looked up anew when its state changes, since models are sharded late.

    `agree` are what the user and the policy ask for: True is the default group, a string a dimension of a mesh.
    """

    def __init__(self, model: nn.Module, *agree: Agree) -> None:
        self._model, self._agree = model, agree
        self._seen: tuple[Hashable, Processes | None] | None = None

    def processes(self, state: Hashable) -> Processes | None:
        """As long as the model has this `state`; None where there are no others. Raises ValueError for a dimension that
        no mesh has."""
        if self._seen is None or self._seen[0] is not state:
            self._seen = state, processes_of(self._model, *self._agree)
        return self._seen[1]


def processes_of(model: nn.Module, *agree: Agree) -> Processes | None:
    """Those that `model` is sharded over, and those that `agree` names."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    groups = {group.group_name: group for group in groups_of(model)}
    asked = [_group(model, one) for one in agree if one is not False]
    groups.update((group.group_name, group) for group in asked)
    return Processes(list(groups.values()), sequence_group(model), always=bool(asked)) if groups else None


def _group(model: nn.Module, agree: Agree) -> Any:
    return named_group(model, agree) if isinstance(agree, str) else distributed.group.WORLD
