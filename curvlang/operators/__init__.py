"""Structured operators: one page of identities each, closed under inverse."""

from curvlang.operators.basic import CholeskyInverse, Dense, Diagonal, Eigen, Identity
from curvlang.operators.block_diagonal import BlockDiagonal, aligned, described
from curvlang.operators.combined import Scaled, Sum, added, scaled
from curvlang.operators.distance import RULES
from curvlang.operators.files import StoredBlocks, load_operator, save
from curvlang.operators.iterative.arnoldi import Arnoldi, Leading, leading_eigenpairs
from curvlang.operators.iterative.conjugate_gradients import ConjugateGradients
from curvlang.operators.iterative.iteration import ExampleMean, Iterative, SolveRecord
from curvlang.operators.iterative.neumann import Neumann
from curvlang.operators.kronecker import EigenBasis, Kronecker, PerOutput, PerOutputEigen
from curvlang.operators.low_rank import Gram, LowRank, low_rank
from curvlang.operators.matrix_free import MatrixFree, estimate_trace
from curvlang.operators.movement import moved, usable
from curvlang.operators.operator import (
    DISTANCES,
    Operator,
    check_regular,
    check_spectrum,
    held_bytes,
)
from curvlang.operators.projected import Projected, projected
from curvlang.operators.spectrum import Spectral, at_once, tikhonov
from curvlang.operators.stacked import Stacked, along, stacked, stacked_from

DISTANCES.update(RULES)

__all__ = [
    "Arnoldi",
    "BlockDiagonal",
    "CholeskyInverse",
    "ConjugateGradients",
    "Dense",
    "Diagonal",
    "Eigen",
    "EigenBasis",
    "ExampleMean",
    "Gram",
    "Identity",
    "Iterative",
    "Kronecker",
    "Leading",
    "LowRank",
    "MatrixFree",
    "Neumann",
    "Operator",
    "PerOutput",
    "PerOutputEigen",
    "Projected",
    "Scaled",
    "SolveRecord",
    "Spectral",
    "Stacked",
    "StoredBlocks",
    "Sum",
    "added",
    "aligned",
    "along",
    "at_once",
    "check_regular",
    "check_spectrum",
    "described",
    "estimate_trace",
    "held_bytes",
    "leading_eigenpairs",
    "load_operator",
    "low_rank",
    "moved",
    "projected",
    "save",
    "scaled",
    "stacked",
    "stacked_from",
    "tikhonov",
    "usable",
]
