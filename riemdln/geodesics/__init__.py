"""Geodesics of any metric: from a point with a velocity, and between two points."""

from riemdln.geodesics._boundary_value import geodesic_between
from riemdln.geodesics._initial_value import Geodesic, GeodesicError, exponential, geodesic, hessian

__all__ = ["Geodesic", "GeodesicError", "exponential", "geodesic", "geodesic_between", "hessian"]
