"""The benchmarks that every figure in the README comes from. `make bench`, or `python -m bench --help`."""
