"""Skip-DiT's released layout and its Skip-Cache, written out by hand."""

import torch
import torch.nn.functional as F


def checkpoint(model, pairs, width, seed=0):
    """A state dict as the authors release it: the model's own weights, and a branch per pair, counted outwards."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    for j in range(pairs):
        state[f"skip_norms.{j}.weight"] = 1 + 0.1 * torch.randn(2 * width, generator=generator)
        state[f"skip_norms.{j}.bias"] = 0.1 * torch.randn(2 * width, generator=generator)
        state[f"skip_linears.{j}.linear.weight"] = 0.2 * torch.randn(width, 2 * width, generator=generator)
        state[f"skip_linears.{j}.linear.bias"] = 0.1 * torch.randn(width, generator=generator)
    return state


def fuse(state, j, x, skip):
    both = torch.cat([x, skip], dim=-1)
    weight, bias = state[f"skip_norms.{j}.weight"], state[f"skip_norms.{j}.bias"]
    norm = F.layer_norm(both.float(), both.shape[-1:], weight, bias, 1e-6)
    return F.linear(norm, state[f"skip_linears.{j}.linear.weight"], state[f"skip_linears.{j}.linear.bias"])


def skip_cache(units, fuse_at, x, cache, keep, full):
    """Skip-Cache over the units: `fuse_at(j, x, skip)` is the j-th branch of the second half, or None."""
    depth, skips = len(units), []
    for i, unit in enumerate(units):
        if keep <= i < depth - keep and not full:
            continue
        if i == depth - keep:
            if full:
                cache["x"] = x
            x = cache["x"]
        if i >= depth - depth // 2:
            x = fuse_at(i - (depth - depth // 2), x, skips[depth - 1 - i])
        x = unit(x)
        if len(skips) < depth // 2:
            skips.append(x)
            if not full and i == keep - 1:
                skips += [None] * (depth // 2 - keep)
    return x


class Window:
    """Skip-Cache's own rule: which steps are full, from N, start and close."""

    def __init__(self, interval, start=None, stop=None):
        self.interval, self.start, self.stop, self.count, self.cache = interval, start, stop, 0, {}

    def full(self, t):
        full = self.count % self.interval == 0 or not self.cache or (self.start is not None and t >= self.start)
        self.count += 1
        return full

    def after(self, t):
        if self.stop is not None and t <= self.stop:
            self.count, self.cache = 0, {}
