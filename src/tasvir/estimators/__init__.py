"""Gradients of expectations, d/dθ E_{p(z;θ)}[f(z)], from samples (Mohamed et al. 2020, arXiv 1906.10652): a table of
estimators, the distributions they are for, exact gradients to hold them against, and their measurement.
"""
