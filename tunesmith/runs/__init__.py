"""Runs: the store, the states, the supervising shim, the log reader. Knows nothing of training."""
