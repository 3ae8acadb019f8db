"""How the benchmarks sample, and what they measure of a run: fidelity, seconds, FLOPs, memory."""
