"""The measured numbers of docs/results.md: `make bench`, or `python -m benchmarks NAME ...` for some of them."""
