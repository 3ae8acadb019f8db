"""What the trajectory shows to a policy, made by hand."""

from skipcache.policies.base import Step


def steps(timesteps, direction=None):
    """What the trajectory shows to a policy, for timesteps of one value or of several."""
    vectors = [t if isinstance(t, tuple) else (t,) for t in timesteps]
    turn = -1 if direction is None else direction
    return [
        Step(
            i,
            timesteps=lambda i=i: vectors[i],
            before=(lambda i=i: vectors[i - 1]) if i else None,
            direction=lambda i=i: turn if i else 0,
        )
        for i in range(len(vectors))
    ]


def decide(policy, timesteps, direction=None):
    return [policy.full(step) for step in steps(timesteps, direction)]
