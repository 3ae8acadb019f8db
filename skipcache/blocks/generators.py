"""The random generators that a forward may draw from without being given one: torch's, Python's and NumPy's."""

from __future__ import annotations

import random

import numpy
import torch


class Generators:
    """Their states now: torch's on the CPU and on `device`, Python's and NumPy's."""

    def __init__(self, device: torch.device) -> None:
        self._device = None if device.type in ("cpu", "meta") else device
        self._torch = self._on_device(), torch.get_rng_state()
        self._python, self._numpy = random.getstate(), numpy.random.get_state()

    def _on_device(self) -> torch.Tensor | None:
        return None if self._device is None else torch.get_device_module(self._device).get_rng_state(self._device)

    def drawn(self) -> list[str]:
        """By name the generators that were drawn from since."""
        now = self._on_device(), torch.get_rng_state()
        same = all(one is other or torch.equal(one, other) for one, other in zip(self._torch, now))  # type: ignore[arg-type]
        ours, theirs = self._numpy, numpy.random.get_state()
        alike = all(map(numpy.array_equal, ours, theirs))
        kept = {"torch": same, "Python's random": random.getstate() == self._python, "NumPy": alike}
        return [name for name, unchanged in kept.items() if not unchanged]

    def put_back(self) -> None:
        on_device, on_host = self._torch
        torch.set_rng_state(on_host)
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        if self._device is not None:
            torch.get_device_module(self._device).set_rng_state(on_device, self._device)
