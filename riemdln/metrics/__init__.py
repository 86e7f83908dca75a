"""Metrics on matrices. A metric is given by its cometric, from covectors to tangent vectors."""

from riemdln.metrics._at import MetricAt
from riemdln.metrics.deep_linear import DeepLinearMetric
from riemdln.metrics.kronecker import KroneckerMetric
from riemdln.metrics.metric import Metric
from riemdln.metrics.spectral import SpectralMetric

__all__ = ["DeepLinearMetric", "KroneckerMetric", "Metric", "MetricAt", "SpectralMetric"]
