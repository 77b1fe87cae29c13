"""Benchmarks of this package against the tools that people use otherwise; run by `make bench`."""
