"""Experiments with energy-based models of the Boltzmann family: Hopfield network, RBM, Gaussian RBM, DBM."""

__version__ = "0.1.0"
