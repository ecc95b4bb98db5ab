"""What kronfluence calls its files and its strategies; the one place where its words for approximations stand."""

from __future__ import annotations

ARGUMENTS = "factor_arguments.json"
BASES = ("gradient_eigenvectors", "activation_eigenvectors")
VALUES = ("gradient_eigenvalues", "activation_eigenvalues")
LAMBDA = ("lambda_matrix", "num_lambda_processed")
MOST_GENERAL = "ekfac"
"""The strategy with eigenvectors and an eigenvalue for each pair of them: the others are cases of it."""
FILES = {MOST_GENERAL: (*BASES, *LAMBDA), "kfac": (*BASES, *VALUES), "diagonal": LAMBDA}
"""The files that say what a curvature is, by the `strategy` of the factors."""
