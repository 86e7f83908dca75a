"""Geodesics of any metric: from a point with a velocity, and between two points."""

from riemdln.geodesics._boundary_value import geodesic_between
from riemdln.geodesics._initial_value import exponential, geodesic
from riemdln.geodesics._pairwise import PairwiseDistances, pairwise_distances
from riemdln.geodesics._results import Geodesic, GeodesicError, LowerRankError

__all__ = [
    "Geodesic",
    "GeodesicError",
    "LowerRankError",
    "PairwiseDistances",
    "exponential",
    "geodesic",
    "geodesic_between",
    "pairwise_distances",
]

for _public in (
    Geodesic,
    GeodesicError,
    LowerRankError,
    PairwiseDistances,
    exponential,
    geodesic,
    geodesic_between,
    pairwise_distances,
):
    _public.__module__ = __name__
