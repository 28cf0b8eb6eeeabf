"""Other programs that train RBMs, each in an environment of its own, judged by one evaluator: `make bench-peers`."""
