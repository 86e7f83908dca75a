"""Kernels: functions of two singular values, each of which defines a spectral metric.

In the frame of the singular value decomposition W = U diag(s) V^T, a spectral cometric
multiplies entry (i, j) of a matrix by ``theta(s_i, s_j)``, and its derivative multiplies by
divided differences of theta in the squares of the singular values. A kernel is one object that
holds both. Sums of kernels and their products with positive numbers are kernels too, and so are
plain functions and nonnegative numbers.
"""

from riemdln.kernels.deep_linear import DeepLinearKernel
from riemdln.kernels.imbalanced import ImbalancedKernel
from riemdln.kernels.kernel import FunctionKernel, Kernel, as_kernel
from riemdln.kernels.loewner import LoewnerKernel

__all__ = [
    "DeepLinearKernel",
    "FunctionKernel",
    "ImbalancedKernel",
    "Kernel",
    "LoewnerKernel",
    "as_kernel",
]
