"""Geodesics and the curvature of any metric."""

from riemdln.geodesics._boundary_value import geodesic_between
from riemdln.geodesics._curvature import (
    curvature,
    ricci_curvature,
    scalar_curvature,
    sectional_curvature,
)
from riemdln.geodesics._initial_value import exponential, geodesic
from riemdln.geodesics._pairwise import PairwiseDistances, pairwise_distances
from riemdln.geodesics._results import Geodesic, GeodesicError, LowerRankError

__all__ = [
    "Geodesic",
    "GeodesicError",
    "LowerRankError",
    "PairwiseDistances",
    "curvature",
    "exponential",
    "geodesic",
    "geodesic_between",
    "pairwise_distances",
    "ricci_curvature",
    "scalar_curvature",
    "sectional_curvature",
]

for _public in __all__:
    globals()[_public].__module__ = __name__
