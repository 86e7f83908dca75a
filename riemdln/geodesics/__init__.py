"""Geodesics and the curvature of any metric."""

from riemdln.geodesics._boundary_value import geodesic_between
from riemdln.geodesics._curvature import (
    curvature,
    ricci_curvature,
    scalar_curvature,
    sectional_curvature,
)
from riemdln.geodesics._initial_value import exponential, geodesic
from riemdln.geodesics._results import Geodesic, GeodesicError

__all__ = [
    "Geodesic",
    "GeodesicError",
    "curvature",
    "exponential",
    "geodesic",
    "geodesic_between",
    "ricci_curvature",
    "scalar_curvature",
    "sectional_curvature",
]

for _public in __all__:
    globals()[_public].__module__ = __name__
