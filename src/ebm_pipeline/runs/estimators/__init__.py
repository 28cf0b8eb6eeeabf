"""The Python interface: machines with scikit-learn's conventions, runs as `ebm-train` makes them, data sets as arrays."""
