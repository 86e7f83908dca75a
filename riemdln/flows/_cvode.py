"""CVODE of SUNDIALS as an integrator of SciPy, for stiff flows: optional, with scikit-sundae."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import DenseOutput, OdeSolver
from scipy.interpolate import BarycentricInterpolator

from riemdln._arrays import finite_array, positive_number

__all__ = ["CVODE", "sundials"]

Vector = NDArray[np.floating[Any]]

HIGHEST_ORDERS = {"BDF": 5, "Adams": 12}
# A step may be cut to a quarter so many times in a row: enough to bring any to the spacing of
# floating-point numbers, where what is not finite shows itself as an edge that no step passes.
MOST_CUTS = 40
# Vectors that GMRES may take; with the 5 of SUNDIALS stiff flows took up to three times as many
# evaluations.
KRYLOV_DIMENSION = 20
REACHED_BOUND = 1  # SUNDIALS: CV_TSTOP_RETURN


def sundials() -> Any:
    """The module of scikit-sundae that has CVODE.

    Raises
    ------
    ImportError
        If scikit-sundae is not installed; says how to install it.
    """
    try:
        import sksundae.cvode
    except ImportError as error:
        raise ImportError(
            "CVODE needs the package scikit-sundae: pip install scikit-sundae (the extra 'stiff')"
        ) from error
    return sksundae.cvode


class CVODE(OdeSolver):
    """Multistep integrator of SUNDIALS, whose implicit steps need no Jacobian matrix.

    It takes dy/dt = f(t, y) by backward differentiation formulas of orders 1 to 5, for stiff
    equations, or Adams-Moulton formulas of orders 1 to 12, with steps and orders of its own choice
    (Hindmarsh and others 2005, "SUNDIALS: Suite of nonlinear and differential/algebraic equation
    solvers", ACM TOMS 31). The implicit equation of each step is solved by Newton's method, and its
    linear equations by GMRES from products of the Jacobian with vectors: memory and time grow as
    the size of y, not its square.

    Parameters
    ----------
    fun : callable
        The right-hand side f(t, y). Where its value is not finite the step is shortened. It is not
        called beyond `t_bound`, nor at a y that is not finite.
    t0, t_bound : float
        Where to start and to end; the end may come before the start.
    y0 : array_like (d,)
        The state at `t0`.
    formula : {"BDF", "Adams"}
        The family of formulas.
    jacobian_product : callable, optional
        From (t, y, v) to the product of the Jacobian df/dy with v. By default a difference quotient
        of SUNDIALS, which costs one evaluation of f.
    rtol : float
        Relative tolerance.
    atol : float or array_like (d,)
        Absolute tolerance, positive.
    first_step, max_step : float, optional
        The length of the first step, and of the longest. By default CVODE chooses.
    vectorized : bool
        Whether `fun` takes columns of states, as `scipy.integrate.solve_ivp` has it.

    Attributes
    ----------
    t, t_old, y, status, nfev, njev, ...
        As `scipy.integrate.OdeSolver` has them. `nfev` counts every call of `fun`, `njev` those of
        `jacobian_product`.

    Raises
    ------
    ImportError
        If scikit-sundae is not installed.
    ValueError
        If an option is none of those above.

    Notes
    -----
    ``dense_output()`` is the polynomial that CVODE itself interpolates a step with, of the order of
    the step, and has its accuracy; it costs no evaluation of `fun`. An error raised in `fun` comes
    out of ``step()`` as it is, and ends the integration.

    Examples
    --------
    With scikit-sundae installed::

        scipy.integrate.solve_ivp(lambda t, y: -1e6 * (y - np.cos(t)), [0, 1], [0.0], method=CVODE)
    """

    def __init__(
        self,
        fun: Callable[[float, Vector], Any],
        t0: float,
        y0: Any,
        t_bound: float,
        *,
        formula: str = "BDF",
        jacobian_product: Callable[[float, Vector, Vector], ArrayLike] | None = None,
        rtol: float = 1e-3,
        atol: ArrayLike = 1e-6,
        first_step: float | None = None,
        max_step: float = np.inf,
        vectorized: bool = False,
    ) -> None:
        cvode = sundials()
        super().__init__(fun, t0, y0, t_bound, vectorized)
        if formula not in HIGHEST_ORDERS:
            raise ValueError(f'formula must be "BDF" or "Adams", got {formula!r}')
        tolerances = finite_array("atol", atol)
        if tolerances.shape not in {(), (self.n,)} or not np.all(tolerances > 0):
            raise ValueError(
                f"atol must be a positive number or {self.n} of them, got {tolerances!r}"
            )
        self._order = HIGHEST_ORDERS[formula]
        self._product = jacobian_product
        self._undefined: float | None = None  # where f was last found not to be finite
        # CVODE runs forwards, in the time direction * t.
        self._bound = float(self.direction * t_bound)
        self._integrator = cvode.CVODE(
            self._evaluate,
            method=formula,
            rtol=positive_number("rtol", rtol),
            atol=tolerances.tolist(),
            first_step=0.0 if first_step is None else positive_number("first_step", first_step),
            max_step=0.0 if max_step == np.inf else positive_number("max_step", max_step),
            max_conv_fails=MOST_CUTS,
            linsolver="gmres",
            krylov_dim=KRYLOV_DIMENSION,
            jactimes=None
            if jacobian_product is None
            else cvode.CVODEJacTimes(None, self._evaluate_product),
        )
        if self.n:
            self._integrator.init_step(float(self.direction * t0), self.y)

    def _evaluate(self, time: float, state: Vector, derivative: Vector) -> None:
        """What CVODE takes for the right-hand side, written into `derivative`."""
        t = float(self.direction * time)
        value = self._defined(t, state, lambda: self.fun(t, state.copy()))
        if self.nfev == 1 and self._undefined is not None:
            raise _NeverDefined  # no shorter step helps
        derivative[:] = value

    def _evaluate_product(
        self, time: float, state: Vector, derivative: Vector, vector: Vector, image: Vector
    ) -> None:
        """What CVODE takes for the product of the Jacobian with a vector, written into `image`."""
        t = float(self.direction * time)

        def product() -> ArrayLike:
            self.njev += 1
            return self._product(t, state.copy(), vector.copy())  # type: ignore[misc]

        image[:] = self._defined(t, state + vector, product)

    def _defined(self, t: float, given: Vector, function: Callable[[], ArrayLike]) -> ArrayLike:
        """A signed value; NaN where it, or what it is taken of, is not finite.

        NaN fails Newton's method, so that CVODE shortens the step; infinity could pass for a value.
        """
        if np.isfinite(given).all():
            with _printing_to(self._stdout):
                value = np.asarray(function())
            if np.isfinite(value).all():
                return self.direction * value
            self._undefined = t
        return np.nan

    def _step_impl(self) -> tuple[bool, str | None]:
        self._undefined = None
        self._stdout = sys.stdout
        try:
            with _printing_to(None):
                step = self._integrator.step(self._bound, "onestep", self._bound)
        except _NeverDefined:
            return self._failure("No first step")
        except BaseException:
            self.status = "failed"  # CVODE was left in the middle of a step
            raise
        if step.status < 0:
            return self._failure(step.message)
        if not np.isfinite(step.y).all():
            return self._failure("The solution left the range of floating-point numbers.")
        reached = step.status == REACHED_BOUND
        t = self.t_bound if reached else float(self.direction * step.t)
        if not reached and abs(t - self.t) < 10 * np.spacing(abs(t)):
            return self._failure(self.TOO_SMALL_STEP)  # CVODE would go on without moving
        self._y_old, self.y, self.t = self.y, step.y, t
        return True, None

    def _failure(self, reason: str) -> tuple[bool, str]:
        if self._undefined is not None:
            gap = f"the right-hand side is not finite at t = {self._undefined:g}"
            reason = f"{reason.rstrip('.')}: {gap}"
        return False, reason

    def _dense_output_impl(self) -> DenseOutput:
        if self.status == "failed":
            raise RuntimeError("CVODE has no interpolant after a step that failed")
        # A polynomial of degree <= q is known from its values at any q + 1 nodes: Chebyshev points
        # make that as accurate as the values.
        fractions = (1 - np.cos(np.linspace(0, np.pi, self._order + 1))) / 2
        nodes = self.t_old + fractions * (self.t - self.t_old)
        inner = [self._interpolate(self.direction * node) for node in nodes[1:-1]]
        self._interpolate(self.direction * self.t)  # else CVODE's next step returns to this time
        return _Interpolant(nodes, np.array([self._y_old, *inner, self.y]))

    def _interpolate(self, time: float) -> Vector:
        """CVODE's own interpolant within its last step, where "normal" takes no step."""
        result = self._integrator.step(float(time), "normal", self._bound)
        if result.status < 0:
            raise RuntimeError(f"CVODE's interpolation failed: {result.message}")
        return result.y


def _printing_to(stream: TextIO | None) -> AbstractContextManager[Any]:
    """Where Python prints to meanwhile; scikit-sundae prints failures, which messages say.

    The standard output belongs to all threads, so that only one of them may change it.
    """
    main = threading.current_thread() is threading.main_thread()
    return redirect_stdout(stream) if main else nullcontext()


class _NeverDefined(Exception):
    """The right-hand side is not finite at the start."""


class _Interpolant(DenseOutput):
    """The polynomial with given values at Chebyshev points of a step."""

    def __init__(self, nodes: Vector, values: Vector) -> None:
        super().__init__(nodes[0], nodes[-1])
        weights = (-1.0) ** np.arange(len(nodes))
        weights[[0, -1]] /= 2
        self._polynomial = BarycentricInterpolator(nodes, values, wi=weights)

    def _call_impl(self, t: Any) -> Any:
        return self._polynomial(t).T
