"""Layers that are not balanced: how they move, how far from a metric, and how to balance them."""

import array_api_strict
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.sparse import csr_array

import riemdln.networks
from riemdln import (
    DeepLinearMetric,
    FullRank,
    KroneckerMetric,
    SpectralMetric,
    balanced_layers,
    balancing_flow,
    end_to_end,
    end_to_end_velocity,
    gradient_flow,
    imbalance,
    imbalances,
    layer_gradients,
    load_flow,
    nearest_imbalance,
    network_flow,
    random_layers,
    velocity_error,
)
from tests.conftest import dense_cometric, derivative, random_matrix, sharp_by_powers

WIDTHS = [[3, 4], [3, 2, 4], [5, 4, 4, 3], [4, 1, 3], [2, 6, 3, 5, 2], [1, 1, 1]]


def kronecker_cometric(layers):
    """The matrix of the velocity: a sum over layers of Kronecker products."""
    N = len(layers)
    matrix = 0.0
    for j in range(N):
        above, below = np.eye(len(layers[-1])), np.eye(layers[0].shape[1])
        for k in range(j + 1, N):
            above = layers[k] @ above if k == j + 1 else layers[k] @ above
        for k in range(j):
            below = layers[k] @ below
        if j + 1 == N:
            above = np.eye(len(layers[-1]))
        matrix = matrix + np.kron(above @ above.T, below.T @ below)
    return matrix
