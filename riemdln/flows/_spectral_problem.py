"""A problem with a further term in its cost: a function of the singular values alone."""

from __future__ import annotations

import abc
from functools import cached_property
from typing import Any

import numpy as np
import pymanopt
from numpy.typing import NDArray
from pymanopt import Problem

from riemdln._arrays import point_of_shape
from riemdln._frame import Blocks
from riemdln.flows._problem import gradient_of_stacks
from riemdln.metrics._spectral_at import FrameAt

__all__ = ["SpectralProblem", "SpectralTerm"]

Matrix = NDArray[np.floating[Any]]


class SpectralTerm(abc.ABC):
    """A function of the singular values, which is asked in the frame of a point.

    Flows hold singular values that are lost in the entries of a matrix. So a term is asked at a
    frame, wherever that comes from, and answers in its blocks.
    """

    @abc.abstractmethod
    def value(self, at: FrameAt) -> Any:
        """The value at a point, or those at a stack of points."""

    @abc.abstractmethod
    def euclidean_gradient(self, at: FrameAt) -> Blocks:
        """The blocks of the Euclidean gradient."""

    @abc.abstractmethod
    def euclidean_hessian(self, at: FrameAt, X: Blocks) -> Blocks:
        """The blocks of the Euclidean Hessian along a tangent vector."""

    def riemannian_gradient(self, at: FrameAt) -> Blocks:
        """The blocks of the Riemannian gradient."""
        return at.sharp(self.euclidean_gradient(at))

    def riemannian_hessian(self, at: FrameAt, X: Blocks) -> Blocks:
        """The blocks of the Riemannian Hessian along a tangent vector."""
        return at.hessian(self.euclidean_gradient(at), self.euclidean_hessian(at, X), X)


class SpectralProblem(Problem):
    """A problem whose cost has a further term, a function of the singular values.

    Parameters
    ----------
    problem : pymanopt.Problem
        The problem, on a manifold with a method `in_frame`; it may have such terms itself.
    term : SpectralTerm
        The term that is added to its cost.

    Attributes
    ----------
    without_spectral_terms : pymanopt.Problem
        The problem without any of its terms.
    spectral_terms : tuple of SpectralTerm
        The terms.
    """

    def __init__(self, problem: Problem, term: SpectralTerm) -> None:
        self._problem, self._term = problem, term
        self.without_spectral_terms = getattr(problem, "without_spectral_terms", problem)
        self.spectral_terms = (*getattr(problem, "spectral_terms", ()), term)
        manifold: Any = problem.manifold
        if manifold.point_layout == 1:
            derivatives = {
                "euclidean_gradient": self._euclidean_gradient_at,
                "euclidean_hessian": self._euclidean_hessian_at,
            }
        else:  # a Euclidean gradient has one of several forms there
            derivatives = {}

        def cost(*point: Any) -> Any:
            return self._cost_at(point[0] if manifold.point_layout == 1 else point)

        plain = pymanopt.function.numpy(manifold)
        super().__init__(
            manifold,
            plain(cost),
            preconditioner=problem.preconditioner,
            **{name: plain(function) for name, function in derivatives.items()},
        )

    @property
    def riemannian_gradient(self) -> Any:
        """From a point to the Riemannian gradient."""
        return self._riemannian_gradient_at

    @property
    def riemannian_hessian(self) -> Any:
        """From a point and a tangent vector to the Riemannian Hessian."""
        return self._riemannian_hessian_at

    @cached_property
    def _of_stacks(self) -> Any:
        return gradient_of_stacks(self._problem)

    def _cost_at(self, point: Any) -> Any:
        at, _, _ = self.manifold.in_frame(point)
        return self._problem.cost(point) + self._term.value(at)

    def _euclidean_gradient_at(self, W: Matrix) -> Any:
        at, _, join = self.manifold.in_frame(W)
        gradient = self._of_stacks if np.ndim(W) > 2 else self._problem.euclidean_gradient
        return _like(W, gradient(W), "gradient") + join(self._term.euclidean_gradient(at))

    def _euclidean_hessian_at(self, W: Matrix, X: Matrix) -> Any:
        at, split, join = self.manifold.in_frame(W)
        hessian = _like(W, self._problem.euclidean_hessian(W, X), "Hessian")
        return hessian + join(self._term.euclidean_hessian(at, split("X", X)))

    def _riemannian_gradient_at(self, point: Any) -> Any:
        gradient = _like(point, self._problem.riemannian_gradient(point), "gradient")
        at, _, join = self.manifold.in_frame(point)
        return gradient + join(self._term.riemannian_gradient(at))

    def _riemannian_hessian_at(self, point: Any, X: Any) -> Any:
        hessian = _like(point, self._problem.riemannian_hessian(point, X), "Hessian")
        at, split, join = self.manifold.in_frame(point)
        return hessian + join(self._term.riemannian_hessian(at, split("tangent_vector", X)))


def _like(point: Any, derivative: Any, name: str) -> Any:
    """A derivative of the cost, of the shape of the point where that is a matrix."""
    if not hasattr(point, "shape"):
        return derivative
    return point_of_shape(f"the {name} of the cost", derivative, point.shape)
