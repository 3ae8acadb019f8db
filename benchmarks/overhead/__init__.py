"""`skipcache overhead`: the host's time per call, beside a plain step, beside a floor, and beside another version."""
