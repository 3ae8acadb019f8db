"""The command `skipcache`, and the benchmarks behind it. README.md lists the rooms and what each may import."""
