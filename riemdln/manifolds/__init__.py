"""Manifolds of matrices that carry a metric of one's choice, for pymanopt's optimizers."""

from riemdln.manifolds.fixed_rank import FixedRank, FixedRankPoint, FixedRankVector
from riemdln.manifolds.full_rank import FullRank
from riemdln.manifolds.positive_definite import PositiveDefinite

__all__ = ["FixedRank", "FixedRankPoint", "FixedRankVector", "FullRank", "PositiveDefinite"]
