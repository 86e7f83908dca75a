r"""
Five optimizers: depth helps steepest descent, sometimes
========================================================

Depth speeds up steepest descent if the minimum lies along a direction in which the cost is flat,
and slows it down if it lies along a steep one. The other optimizers gain little.

.. image:: images/sphx_glr_plot_solvers_001.png
   :alt: Paths of steepest descent at three depths, condition numbers by the angle of the minimum
   :class: figures-first
   :target: ../_images/sphx_glr_plot_solvers_001.png

.. image:: images/sphx_glr_plot_solvers_002.png
   :alt: Costs and gradient norms of five optimizers at depths 1, 2 and 3
   :class: figures-first
   :target: ../_images/sphx_glr_plot_solvers_002.png

A manifold of riemdln serves every optimizer of pymanopt. This example runs all five on one strictly
convex problem, a regression with the loss :math:`r^4 / 4 + r^2 / 2` of the residuals r, on two
strongly correlated inputs. W is one row of two weights. The metric is Euclidean at depth 1, and
:math:`g^N` at the depths N = 2 and 3. The minimum lies along the flat direction. There depth N
divides the condition number by about N, and steepest descent needs half as many iterations at
depths 2 and 3. Conjugate gradients need about as many at all depths, and trust regions need more at
greater depth.

The guide tells :doc:`how to use each optimizer </guide/solver>` and :doc:`what depth does
</guide/depth>`, and the theory has :ref:`the metric of one row <special>`. The manifold is
`riemdln.FullRank`.

Run it with ``python examples/plot_solvers.py``; it writes ``plot_solvers_descent.png`` and
``plot_solvers.png``.
"""

# %%
# The problem
# -----------
# The inputs have a variance of 1 along (1, 1) and of 1/20 along (1, -1). The weights that made the
# outputs point along (1, -1), turned by an angle that is zero at first. The noise is not correlated
# with the inputs.

import time

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from pymanopt.optimizers import (
    ConjugateGradient,
    NelderMead,
    ParticleSwarm,
    SteepestDescent,
    TrustRegions,
)

import riemdln

DEPTHS = [1, 2, 3]
FLAT, STEEP = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)


def regression_cost(angle):
    """The mean of r^4 / 4 + r^2 / 2 over residuals r, the true weights turned from FLAT."""
    noise = np.random.default_rng(0).standard_normal((100, 3))
    first, second, third = 10 * np.linalg.qr(noise)[0].T[:, :, None]
    X = first * STEEP + second * FLAT / np.sqrt(20)
    y = X @ (np.cos(angle) * FLAT + np.sin(angle) * STEEP)[:, None] + 0.3 * third

    def cost(W):
        residuals = X @ W.T - y
        return anp.mean(residuals**4) / 4 + anp.mean(residuals**2) / 2

    return cost


def problem_at(depth, cost, **options):
    """The problem under the metric of one depth: depth 1 is Euclidean."""
    manifold = riemdln.FullRank(1, 2, riemdln.DeepLinearMetric(depth), **options)
    return pymanopt.Problem(manifold, pymanopt.function.autograd(manifold)(cost))


def minimum_of(cost):
    """Where the cost is least, to rounding error."""
    optimizer = TrustRegions(min_gradient_norm=1e-12, verbosity=0)
    return optimizer.run(problem_at(1, cost), initial_point=FLAT[None]).point


cost = regression_cost(angle=0.0)
least = cost(minimum_of(cost))
turns = 2 * np.pi * np.arange(9) / 9
STARTS = 0.5 * np.stack([np.cos(turns), np.sin(turns)], axis=-1)[:, None, :]

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_solvers_001_2.png"

# %%
# First order: steepest descent and conjugate gradients
# -----------------------------------------------------
# Nine starts on a circle around zero. Each metric measures gradients in its own way, so iterations
# are counted until the cost is within 1e-8 of its minimum. At depths 2 and 3 steepest descent needs
# about half as many as at depth 1; conjugate gradients need as many at all depths, within four.


def first_order_runs(optimizer_class, depth):
    """The points and the costs less the minimum of nine runs, and the seconds that a run takes."""
    problem = problem_at(depth, cost)
    optimizer = optimizer_class(min_gradient_norm=1e-6, verbosity=0, log_verbosity=1)
    began = time.perf_counter()
    logs = [optimizer.run(problem, initial_point=start).log["iterations"] for start in STARTS]
    seconds = (time.perf_counter() - began) / len(STARTS)
    paths = [np.array(log["point"])[:, 0] for log in logs]
    return paths, [np.array(log["cost"]) - least for log in logs], seconds


def iterations_until(gaps, level=1e-8):
    """The median of the iterations after which the cost was within the level of its minimum."""
    assert all(gap[-1] < level for gap in gaps)
    return np.median([np.argmax(gap < level) for gap in gaps])


first_order, counts = {}, {}
for optimizer_class in (SteepestDescent, ConjugateGradient):
    for depth in DEPTHS:
        name = optimizer_class.__name__
        first_order[name, depth] = first_order_runs(optimizer_class, depth)
        _, gaps, seconds = first_order[name, depth]
        counts[name, depth] = iterations_until(gaps)
        print(
            f"{name}, depth {depth}: within 1e-8 of the minimum after {counts[name, depth]:.0f} "
            f"iterations (median of {len(STARTS)} starts), {seconds:.2f} s"
        )
assert all(
    counts["SteepestDescent", depth] < 0.6 * counts["SteepestDescent", 1] for depth in DEPTHS[1:]
)
assert np.ptp([counts["ConjugateGradient", depth] for depth in DEPTHS]) <= 4

# %%
# Second order: trust regions
# ---------------------------
# Near the minimum each gradient norm is at most a constant times the square of the one before it,
# at every depth. Depth makes the way there longer.


def gradient_norms(depth, start, iterations=15):
    """Gradient norms and costs less the minimum, iteration by iteration, and the seconds."""
    problem = problem_at(depth, cost)
    norms = [problem.manifold.norm(start, problem.riemannian_gradient(start))]
    gaps = [cost(start) - least]
    for count in range(1, iterations + 1):
        # The optimizer keeps no log, so it is stopped after each number of iterations.
        optimizer = TrustRegions(max_iterations=count, min_gradient_norm=1e-10, verbosity=0)
        result = optimizer.run(problem, initial_point=start)
        norms.append(result.gradient_norm)
        gaps.append(result.cost - least)
        if norms[-1] < 1e-10:
            break
    assert norms[-1] < 1e-10
    return np.array(norms), np.array(gaps), result.time


second_order = {}
for depth in DEPTHS:
    second_order[depth] = [gradient_norms(depth, start) for start in STARTS]
    counts["TrustRegions", depth] = np.median([len(norms) - 1 for norms, *_ in second_order[depth]])
    seconds = np.mean([seconds for *_, seconds in second_order[depth]])
    print(
        f"TrustRegions, depth {depth}: gradient norm below 1e-10 after "
        f"{counts['TrustRegions', depth]:.0f} iterations (median of {len(STARTS)} starts), "
        f"{seconds:.2f} s"
    )
    for norms, gaps, _ in second_order[depth]:
        near = gaps[:-1] < 1e-4
        # What is below 1e-14 is rounding error.
        assert near.any()
        assert all(norms[1:][near] < 10 * norms[:-1][near] ** 2 + 1e-14)
assert counts["TrustRegions", 1] < counts["TrustRegions", 2] < counts["TrustRegions", 3]

# %%
# Without derivatives: particle swarm and Nelder-Mead
# ---------------------------------------------------
# Both ask again and again for the geodesic between two points. For one row, as here, it is known in
# closed form. The polar retraction never crosses matrices of lower rank, where :math:`g^N` ends.
# The isometric transport keeps the lengths of the particles' velocities. Under the Euclidean metric
# a straight step is the geodesic itself. The median is over nine seeds of the random points.


def derivative_free_run(optimizer, depth, seed):
    """The least costs so far less the minimum, and the seconds, of one run."""
    options = {"retraction": "polar", "transport": "isometric"} if depth > 1 else {}
    manifold = riemdln.FullRank(1, 2, riemdln.DeepLinearMetric(depth), rng=seed, **options)
    costs = []

    @pymanopt.function.numpy(manifold)
    def recorded_cost(W):
        costs.append(cost(W))
        return costs[-1]

    np.random.seed(seed)  # noqa: NPY002 (the particle swarm draws from NumPy's global generator)
    result = optimizer.run(pymanopt.Problem(manifold, recorded_cost))
    return np.minimum.accumulate(costs) - least, result.time


derivative_free = {}
for depth in DEPTHS:
    for optimizer, length in (
        (ParticleSwarm(max_iterations=50, population_size=10, verbosity=0), 500),
        (NelderMead(max_iterations=30, verbosity=0), 60),
    ):
        name = type(optimizer).__name__
        runs, seconds = zip(
            *(derivative_free_run(optimizer, depth, seed) for seed in range(9)), strict=True
        )
        padded = [np.pad(gaps, (0, max(0, length - len(gaps))), "edge")[:length] for gaps in runs]
        gaps = np.median(padded, axis=0)
        derivative_free[name, depth] = gaps, np.median(seconds)
        print(
            f"{name}, depth {depth}: cost {gaps[-1]:.0e} above the minimum after {length} costs "
            f"(median of 9 seeds), {np.median(seconds):.2f} s",
            flush=True,
        )
        assert gaps[-1] < 0.05 < gaps[0]

# %%
# Where depth helps
# -----------------
# The condition number of the Hessian at the minimum says how fast steepest descent ends: the
# smaller, the faster. Now turn the minimum from the flat direction to the steep one. Along the flat
# one depth N divides the condition number by about N, and along the steep one it multiplies it by
# about N.


def condition_number(depth, cost):
    """The condition number of the Riemannian Hessian at the minimum."""
    W, problem = minimum_of(cost), problem_at(depth, cost)
    columns = [problem.riemannian_hessian(W, X[None])[0] for X in np.eye(2)]
    eigenvalues = np.linalg.eigvals(np.stack(columns, axis=-1)).real
    return eigenvalues.max() / eigenvalues.min()


angles = np.linspace(0, np.pi / 2, 31)
family = [regression_cost(angle) for angle in angles]
conditions = {depth: np.array([condition_number(depth, c) for c in family]) for depth in DEPTHS}
for depth in DEPTHS:
    ratios = conditions[depth] / conditions[1]
    assert abs(ratios[0] * depth - 1) < 0.05
    assert abs(ratios[-1] / depth - 1) < 0.1
    assert depth == 1 or np.all(np.diff(ratios) > 0)

# %%
# The figures
# -----------
# They stand at the head of this page.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00"], strict=True))
LABELS = {depth: f"depth {depth}" + (" (Euclidean)" if depth == 1 else "") for depth in DEPTHS}

figure, (plane, turned) = plt.subplots(1, 2, figsize=(9, 5.6), layout="constrained")
SHOWN = 4
grid = np.stack(np.meshgrid(np.linspace(-0.5, 1.1, 121), np.linspace(-1.1, 0.5, 121)), axis=-1)
heights = np.array([cost(W[None]) for W in grid.reshape(-1, 2)]).reshape(grid.shape[:2]) - least
plane.contour(*np.moveaxis(grid, -1, 0), heights, np.geomspace(1e-3, 10, 13), colors="0.8")
for depth, colour in COLOURS.items():
    paths, gaps, _ = first_order["SteepestDescent", depth]
    label = f"{LABELS[depth]}: {np.argmax(gaps[SHOWN] < 1e-8)} steps"
    plane.plot(*paths[SHOWN].T, ".-", color=colour, markersize=6, linewidth=1.2, label=label)
    turned.semilogy(np.degrees(angles), conditions[depth], color=colour)
    k, offset = (20, (-6, 4)) if depth == 3 else (30, (0, -14))
    place, style = (np.degrees(angles)[k], conditions[depth][k]), {"color": colour, "ha": "right"}
    turned.annotate(f"depth {depth}", place, offset, textcoords="offset points", **style)
plane.axline((0, 0), FLAT, color="0.5", linewidth=1, linestyle="--", zorder=0)
plane.plot(0, 0, "+", color="#CC79A7", markersize=13, markeredgewidth=2, zorder=5)
plane.plot(*minimum_of(cost)[0], "*", color="#009E73", markersize=15)
for text, place, offset in (
    ("minimum", minimum_of(cost)[0], (-62, -16)),
    ("start", STARTS[SHOWN][0], (6, -14)),
    ("flat direction", (-0.35, 0.35), (8, 4)),
):
    plane.annotate(text, place, offset, textcoords="offset points")
pointer = {"arrowstyle": "-", "color": "#CC79A7"}
plane.annotate("origin", (0, 0), (52, 16), textcoords="offset points", arrowprops=pointer)
plane.set(
    title="Paths along the flat direction (grey: cost)",
    xlabel="weight $w_1$",
    ylabel="weight $w_2$",
    xlim=(-0.5, 1.1),
    ylim=(-1.1, 0.5),
    aspect="equal",
)
turned.set(
    title="Depth helps near the flat direction only",
    xlabel="degrees from the flat direction to the minimum",
    ylabel="condition number of the Hessian at the minimum",
)
turned.set_yticks([5, 10, 20, 40, 60], ["5", "10", "20", "40", "60"])
turned.minorticks_off()
turned.grid(alpha=0.25)
figure.legend(
    title=(
        "Depth N: descent under $g^N$, the metric that N balanced layers give their product $w$."
        "\nLeft: steps of steepest descent until the cost is within $10^{-8}$ of its minimum."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=3,
)
SOURCE = "Regression on two correlated inputs, mean of $r^4 / 4 + r^2 / 2$ over residuals r"
figure.suptitle(
    f"Depth helps steepest descent if the minimum lies along a flat direction\n{SOURCE}",
    fontsize=12,
)
figure.savefig("plot_solvers_descent.png", dpi=150)

figure, axes = plt.subplots(2, 2, figsize=(9, 7.8), layout="constrained")
(descent, quadratic), (swarm, simplex) = axes


def median_curve(gaps):
    """The median over the runs at each iteration; a run that has ended stays where it is."""
    length = max(map(len, gaps))
    return np.median([np.pad(gap, (0, length - len(gap)), "edge") for gap in gaps], axis=0)


for depth, colour in COLOURS.items():
    for name, style in (("SteepestDescent", "-"), ("ConjugateGradient", "--")):
        descent.semilogy(median_curve(first_order[name, depth][1]), style, color=colour)
    descent.plot([], [], color=colour, label=LABELS[depth])
    for norms, *_ in second_order[depth]:
        quadratic.semilogy(norms, ".-", color=colour, linewidth=0.8, alpha=0.7)
    for panel, name in ((swarm, "ParticleSwarm"), (simplex, "NelderMead")):
        gaps, _ = derivative_free[name, depth]
        panel.semilogy(range(1, len(gaps) + 1), gaps, color=colour, drawstyle="steps-post")
descent.plot([], [], "-", color="0.5", label="steepest descent")
descent.plot([], [], "--", color="0.5", label="conjugate gradients")
descent.set(
    title="Steepest descent gains, conjugate\ngradients do not",
    xlabel="iteration (median of 9 starts)",
    ylabel="cost above its minimum",
    xlim=(0, 60),
    ylim=(1e-10, 1e3),
)
descent.legend(frameon=False, ncols=2, loc="upper right", columnspacing=0.8, handlelength=1.5)
quadratic.set(
    title="Trust regions take a little longer\nwith depth",
    xlabel="iteration (each of 9 starts)",
    ylabel="norm of the gradient",
)
for panel, name, outcome in (
    (swarm, "Particle swarm", "makes little difference"),
    (simplex, "Nelder-Mead", "gains nothing"),
):
    panel.set(
        title=f"{name}, without gradients:\ndepth {outcome}",
        xlabel="costs evaluated (median of 9 seeds)",
        ylabel="least cost so far above its minimum",
    )
for panel in axes.flat:
    panel.grid(alpha=0.25)
figure.suptitle(
    f"One convex regression, five optimizers: depth helps steepest descent alone\n{SOURCE}",
    fontsize=12,
)
figure.savefig("plot_solvers.png", dpi=150)
plt.show()
