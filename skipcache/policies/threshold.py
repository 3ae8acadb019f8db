"""Threshold: a step is full when the shallow feature has moved far enough."""

from __future__ import annotations

from dataclasses import dataclass

from skipcache.policies.base import Step, check_count, check_number


@dataclass(frozen=True)
class Threshold:
    """A step is full when the shallow feature H has moved by `limit` since the last full step, and cached until then.

    H is fresh on every step, so its changes show how fast features change. The relative changes from step to step are
    summed, as in TeaCache (arXiv 2411.19108); the coming step is expected to change as much as the last one did. Each
    decision reads one number from the device, once per step.

    Experimental: in some settings a uniform interval keeps more, above all with samplers that draw noise: see
    docs/notebook.md.

    The second step of a run is cached whatever the limit: by then no change of H is known. To make it full, write a
    policy of your own that also asks for `step.index`.

    Args:
        limit: the change of H that may pass before a full step, as a fraction of its norm. Raising it caches more.
        most: cached steps in a row at most.
        agree: processes on all of which a step is full where it is on any: True is the default process group, a string
            a dimension of a device mesh that the model is sharded over. Processes that hold a model together agree
            without it, where that is seen (FSDP2, tensor and context parallelism); in other ways of sharding a process
            would wait for ever in a collective of a block that others skip. All of them must call the model equally
            often. Costs one all-reduce of some numbers per call.

    Raises TypeError or ValueError for numbers that cannot be.

    Example:
        skipcache.accelerate(pipe, policy=skipcache.Threshold(0.05))
    """

    limit: float
    most: int = 8
    agree: bool | str = False

    def __post_init__(self) -> None:
        check_number("Threshold", "limit", self.limit, finite=False)
        check_count("Threshold", "most", self.most)
        if not isinstance(self.agree, (bool, str)):
            raise TypeError(
                f"Threshold: expected True, False or the name of a mesh dimension for agree, got {self.agree!r}; True "
                f"is the default process group"
            )
        if not self.limit > 0:
            raise ValueError(f"Threshold: expected limit > 0, got {self.limit}; interval=1 caches nothing")

    @property
    def caches(self) -> bool:
        return True

    @property
    def reads_drift(self) -> bool:
        return True

    def full(self, step: Step) -> bool:
        return step.index == 0 or step.since > self.most or not step.drift() < self.limit
