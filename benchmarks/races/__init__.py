"""`skipcache.benchmarks.race`: the methods of `skipcache peers` on a pipeline of one's own.

`task.py` puts a pipeline and the function that samples with it in the place of a reference and its data.
"""
