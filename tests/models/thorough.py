"""What `make test` leaves to `make test-all`: the same check on one more family, and whatever takes long."""

import pytest

CORE = ("dit", "sd3", "flux", "flux_dev", "original_latte", "latte")  # families that `make test` looks at


def families(names):
    """All names; those that are not of the core are left to `make test-all`."""
    return [name if name in CORE else pytest.param(name, marks=pytest.mark.thorough) for name in names]
