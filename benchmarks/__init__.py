"""The measured numbers of README.md and docs/results.md: `make bench`, or `python -m benchmarks NAME ...` for some of them."""
