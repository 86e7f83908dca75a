r"""
A metric of one's own
=====================

Write one method, and riemdln makes the gradients, Hessians, geodesics and distances of your metric.
The metric of this example is Euclidean near zero, and far from zero it measures relative steps.

.. image:: images/sphx_glr_plot_own_metric_001.png
   :alt: Distances from zero next to arsinh(w), and geodesics and circles of the hyperbolic plane
   :class: figures-first
   :target: ../_images/sphx_glr_plot_own_metric_001.png

A Riemannian metric on matrices says how long a small step is. riemdln takes it as a
cometric, the linear map :math:`A_W` that turns a Euclidean gradient P at the point W into the
Riemannian gradient :math:`A_W(P)`. This example builds one from nothing:

.. math:: A_W(P) = (I + W W^T) P, \qquad g_W(X, Y) = \mathrm{Tr}(X^T (I + W W^T)^{-1} Y).

Near W = 0 it is the Euclidean metric, and far from 0 it measures steps relative to W. On 1 x 1
matrices the distance of w from 0 is arsinh(w): it is about w at first, and grows like a logarithm
later. :math:`A_W` is symmetric and positive definite at every W. On columns of two entries this is
the hyperbolic plane.

The guide has a page on :doc:`metrics of your own </guide/own_metric>`, and the theory a section on
:ref:`the cometric <cometric>`. The classes are `riemdln.Metric`, `riemdln.SpectralMetric` and
`riemdln.KroneckerMetric`.

Run it with ``python examples/plot_own_metric.py``; it writes ``plot_own_metric.png``.
"""

# %%
# One method is enough
# --------------------
# A metric is a subclass of ``Metric`` with the method ``sharp``, which is :math:`A_W`. Write it in
# ``autograd.numpy``: Hessians and geodesics need its derivatives, which come by automatic
# differentiation. Its inverse ``flat`` solves a linear system.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from pymanopt.optimizers import SteepestDescent, TrustRegions

import riemdln
from riemdln.checks import CheckError, check_gradient, check_hessian, check_metric
from riemdln.kernels import FunctionKernel


class Relative(riemdln.Metric):
    """The metric that measures steps relative to W."""

    def sharp(self, W, P):
        """(I + W W^T) P."""
        return P + W @ (W.T @ P)


metric = Relative()
w, p = np.array([[3.0]]), np.array([[1.0]])
print(f"A(p) = (1 + w^2) p at w = 3: {metric.sharp(w, p)}, and back: {metric.flat(w, 10 * p)}")
assert np.allclose(metric.sharp(w, p), 10 * p)
assert np.allclose(metric.flat(w, 10 * p), p)

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_own_metric_001_2.png"

# %%
# Check it
# --------
# ``check_metric`` tests at a random matrix that ``sharp`` is symmetric, positive definite and
# inverted by ``flat``, and compares its derivative with finite differences. What it returns are
# relative errors; it raises ``CheckError`` where one is too large.

check = check_metric(metric, 3, 2, rng=0)
print(check)
assert check.symmetry < 1e-12
assert check.positivity > 0
assert check.inverse < 1e-10
assert check.derivative < 1e-8

# %%
# A map that is not symmetric belongs to no metric. The check finds it.


class Lopsided(riemdln.Metric):
    """No metric: ``sharp`` is not symmetric."""

    def sharp(self, W, P):
        """P + W P^T W W^T W."""
        return P + W @ P.T @ W @ W.T @ W


complaint = "none"
try:
    check_metric(Lopsided(), 3, 2, rng=0)
except CheckError as error:
    complaint = str(error)
print(f"Lopsided: {complaint}")
assert "sharp is not symmetric" in complaint

# %%
# Optimize with it
# ----------------
# ``FullRank`` makes a pymanopt manifold of any metric. Nothing else in a problem changes.

target = np.array([[3.0, 0.0], [1.0, 2.0], [0.0, 1.0]])
manifold = riemdln.FullRank(3, 2, metric, rng=0)


@pymanopt.function.autograd(manifold)
def cost(W):
    return anp.sum((W - target) ** 4) / 4 + anp.sum((W - target) ** 2) / 2


problem = pymanopt.Problem(manifold, cost)

# %%
# ``check_gradient`` and ``check_hessian`` compare the cost with its Taylor polynomials: the error
# of the first is of order 2 in the step size, and that of the second of order 3 along geodesics. A
# slope that is too small raises ``CheckError``.

gradient_check, hessian_check = check_gradient(problem), check_hessian(problem)
print(f"slopes: gradient {gradient_check.slope:.2f}, Hessian {hessian_check.slope:.2f}")
assert abs(gradient_check.slope - 2) < 0.05
assert abs(hessian_check.slope - 3) < 0.05

# %%
# With a right Hessian the trust region method converges in a few steps.

optimizer = TrustRegions(min_gradient_norm=1e-10, verbosity=0)
result = optimizer.run(problem, initial_point=np.eye(3, 2))
print(f"trust regions: gradient norm {result.gradient_norm:.0e} after {result.iterations} steps")
assert result.iterations <= 10
assert result.gradient_norm < 1e-10
assert np.allclose(result.point, target)

# %%
# The metric also has geodesics and distances now. On 1 x 1 matrices they can be compared with the
# closed form.

line = riemdln.FullRank(1, 1, metric)
distance = line.dist([[1.0]], [[3.0]])
print(f"distance of 1 and 3: {distance:.8f}, arsinh 3 - arsinh 1 = {np.arcsinh([3, -1]).sum():.8f}")
assert np.isclose(distance, np.arcsinh(3) - np.arcsinh(1), rtol=1e-9)

# %%
# A closed form for ``flat``
# --------------------------
# ``flat`` solves :math:`A_W(Y) = Z`, by default with m n x m n coefficients. Here m x m
# coefficients are enough. Nothing is differentiated through ``flat``, so it is plain NumPy.


class FasterRelative(Relative):
    """The same metric."""

    def flat(self, W, Z):
        """(I + W W^T)^{-1} Z."""
        return np.linalg.solve(np.eye(len(W)) + W @ W.T, Z)


assert check_metric(FasterRelative(), 3, 2, rng=0).inverse < 1e-12

# %%
# ``sharp_derivative`` and ``sharp_derivative_adjoint`` can be overridden in the same way; the check
# compares them with ``sharp``. A metric whose geodesics end at matrices of lower rank, as those of
# ``DeepLinearMetric`` do, sets ``ends_at_lower_rank = True``. With ``require_shape`` a metric
# refuses matrices on which it does not exist.
#
# Shortcut: a kernel of two singular values
# -----------------------------------------
# Let :math:`W = U S V^T`. If :math:`A_W` multiplies entry (i, j) of :math:`U^T P V` by a number
# :math:`\theta(s_i, s_j)`, then ``SpectralMetric`` needs only :math:`\theta`. The metric above is
# of this kind, with :math:`\theta(s, t) = 1 + s^2`. ``flat`` is then a division, and all that
# depends on the singular value decomposition is computed once at each point.


def theta(s, t):
    return 1 + s**2


spectral = riemdln.SpectralMetric(theta)
W, X, P = np.random.default_rng(0).standard_normal((3, 3, 2))
assert np.allclose(spectral.sharp(W, P), metric.sharp(W, P))
assert np.allclose(spectral.flat(W, X), metric.flat(W, X))

# %%
# Derivatives of the metric need the divided differences of :math:`\theta` in the squares of its
# arguments, :math:`(\theta(a, t) - \theta(b, t)) / (a^2 - b^2)` with the limit at a = b. By default
# they are computed from :math:`\theta` numerically, to about ten digits. In closed form they are
# exact, even where singular values are tiny or close to each other. Give them to
# ``FunctionKernel``: here those in the first argument are 1, and those in the second are 0. For a
# symmetric function one is enough.


def slope_in_the_first(a, b, t):
    return 1.0 + 0.0 * (a + b + t)


def slope_in_the_second(a, b, t):
    return 0.0 * (a + b + t)


kernel = FunctionKernel(theta, slope_in_the_first, slope_in_the_second)
exact = riemdln.SpectralMetric(kernel)
derivative = metric.sharp_derivative(W, X, P)  # (W X^T + X W^T) P, by automatic differentiation
for name, shortcut, tolerance in (("numerical", spectral, 1e-8), ("exact", exact, 1e-12)):
    difference = np.abs(shortcut.sharp_derivative(W, X, P) - derivative).max()
    print(f"{name} divided differences: derivative of the metric to {difference:.0e}")
    assert difference < tolerance

# %%
# What geometry is it?
# --------------------
# On columns w with :math:`|w| = \sinh \rho` the metric is
# :math:`d\rho^2 + \sinh^2(\rho) \, d\phi^2`: columns of two entries are the hyperbolic plane. The
# points :math:`(w_0, w)` with :math:`w_0 = \sqrt{1 + |w|^2}` lie on a hyperboloid, and there all is
# known in closed form: the distance of v and w is
# :math:`\operatorname{arcosh}(v_0 w_0 - v \cdot w)`, and the geodesic from w along a unit vector x
# is :math:`\cosh(t) w + \sinh(t) x`.

plane = riemdln.FullRank(2, 1, exact)
centre = np.array([[1.5], [0.5]])
RADII = np.array([0.25, 0.5, 0.75, 1.0, 1.25, 1.5])


def unit_vector(angle):
    """The tangent vector of length 1 at the centre in a direction of the plane."""
    direction = np.array([[np.cos(angle)], [np.sin(angle)]])
    return direction / plane.norm(centre, direction)


def closed_form(angle, length):
    """Where the geodesic from the centre is after a length."""
    return np.cosh(length) * centre + np.sinh(length) * unit_vector(angle)


def hyperbolic_distance(v, w):
    lifts = np.sqrt((1 + np.sum(v**2)) * (1 + np.sum(w**2)))
    return np.arccosh(lifts - np.sum(v * w))


ANGLES = 2 * np.pi * np.arange(16) / 16
rays = np.array([[plane.exp(centre, r * unit_vector(a)) for r in RADII] for a in ANGLES])
worst = np.abs(rays - [[closed_form(a, r) for r in RADII] for a in ANGLES]).max()
print(f"geodesics of the hyperbolic plane: largest difference from the closed form {worst:.0e}")
assert worst < 1e-7
for v, w in zip(rays[:, -1], np.roll(rays[:, -1], 5, axis=0), strict=True):
    assert np.isclose(plane.dist(v, w), hyperbolic_distance(v, w), rtol=1e-8)

# %%
# Shortcut: one preconditioner for the rows, one for the columns
# --------------------------------------------------------------
# ``KroneckerMetric(left, right)`` is the constant metric A(P) = L P R with symmetric positive
# definite L and R. Let L be the identity and R the inverse covariance of the inputs of a linear
# regression. The Riemannian gradient is then that of whitened data, and for Gaussian noise of unit
# variance it is the natural gradient. The Hessian of the least squares problem becomes the
# identity, so that one step of size 1 from anywhere solves it.

rng = np.random.default_rng(0)
inputs = np.diag([1.0, 10.0, 100.0]) @ rng.standard_normal((3, 50))  # badly scaled
outputs = rng.standard_normal((2, 50))
covariance = inputs @ inputs.T / 50
whitened = riemdln.FullRank(2, 3, riemdln.KroneckerMetric(np.eye(2), np.linalg.inv(covariance)))


@pymanopt.function.autograd(whitened)
def least_squares(W):
    return anp.sum((W @ inputs - outputs) ** 2) / 100


optimizer = SteepestDescent(riemdln.FixedStep(1.0), max_iterations=1, verbosity=0)
problem = pymanopt.Problem(whitened, least_squares)
result = optimizer.run(problem, initial_point=np.ones((2, 3)))
solution = np.linalg.lstsq(inputs.T, outputs.T, rcond=None)[0].T
error = np.linalg.norm(result.point - solution) / np.linalg.norm(solution)
print(f"whitened least squares: relative error {error:.0e} after {result.iterations} step")
assert error < 1e-10

# %%
# The figure
# ----------
# It stands at the head of this page.

figure, (far, curved) = plt.subplots(1, 2, figsize=(9, 4.7), layout="constrained")
BLUE, ORANGE, YELLOW = "#0072B2", "#D55E00", "#E69F00"

w, some = np.linspace(0, 10, 200), np.linspace(0, 10, 11)
computed = [riemdln.FullRank(1, 1, exact).dist([[0.0]], [[x]]) for x in some]
assert np.allclose(computed, np.arcsinh(some), rtol=1e-8)
power = np.ceil(np.log10(max(worst, np.abs(computed - np.arcsinh(some)).max())))
far.plot(w, w, color="#000000")
far.annotate("Euclidean distance $w$", (3.9, 3.5))
far.plot(w, np.arcsinh(w), color=BLUE)
far.annotate("closed form arsinh $w$", (4.6, 2.0), color=BLUE)
far.plot(some, computed, "o", color=ORANGE, markersize=6)
far.set(
    title="Far from zero distances grow like $\\ln w$",
    xlabel=r"the number $w$, a $1 \times 1$ matrix",
    ylabel="distance of $w$ from 0",
    ylim=(0, 4),
)

lengths, turns = np.linspace(0, RADII[-1], 60), np.linspace(0, 2 * np.pi, 200)
for angle in ANGLES:
    curved.plot(*np.hstack([closed_form(angle, t) for t in lengths]), color=BLUE, linewidth=1.2)
for radius in RADII[1::2]:
    circle = np.hstack([closed_form(angle, radius) for angle in turns])
    curved.plot(*circle, color=YELLOW, linewidth=1.2)
curved.plot(*rays[:, -1, :, 0].T, "o", color=ORANGE, markersize=6)
curved.plot(0, 0, "x", color="0.3", markersize=8)
curved.annotate("0", (0, 0), (-14, -4), textcoords="offset points")
computed_label = rf"computed from $A_W$, error $< 10^{{{power:.0f}}}$"
for style, label in (
    ({"color": BLUE}, "geodesics, closed form"),
    ({"color": YELLOW}, "circles of radius 0.5, 1, 1.5, closed form"),
    ({"color": ORANGE, "linestyle": "", "marker": "o", "markersize": 6}, computed_label),
):
    curved.plot([], [], label=label, **style)
curved.set(
    title=r"$2 \times 1$ matrices are the hyperbolic plane",
    xlabel="first entry of $w$",
    ylabel="second entry of $w$",
    aspect="equal",
    xlim=(-1, 8),
    ylim=(-3.2, 5.2),
)
figure.legend(frameon=False, ncols=3, loc="outside lower center")
for panel in (far, curved):
    panel.grid(alpha=0.25)
figure.suptitle(
    "riemdln makes distances and geodesics of a metric that a user wrote\n"
    "User's code: $A_W(P) = (I + W W^T) P$ for Euclidean gradients P; the metric is $A_W^{-1}$",
    fontsize=12,
)
figure.savefig("plot_own_metric.png", dpi=150)
plt.show()
