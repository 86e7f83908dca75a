r"""
Lazy and rich: wide random layers act like imbalance
====================================================

Wide random layers move their product by the metric of an imbalance. Where it is small, modes are
learned one by one, which is called rich, and where it is large all at once, lazy.

.. image:: images/sphx_glr_plot_lazy_and_rich_001.png
   :alt: How much of each mode has been learned in time, at a small and at a large imbalance
   :class: figures-first
   :target: ../_images/sphx_glr_plot_lazy_and_rich_001.png

.. image:: images/sphx_glr_plot_lazy_and_rich_002.png
   :alt: Times of the modes by the imbalance, and errors by the width of the hidden layer
   :class: figures-first
   :target: ../_images/sphx_glr_plot_lazy_and_rich_002.png

Two layers of the hidden width h, with random entries of standard deviation a, have the imbalance
:math:`\lambda = 2 h a^2`. It is small or large beside the singular values of the target. From
balanced layers modes are learned one by one, and by one layer all at once.

The layers keep :math:`W_2^T W_2 - W_1 W_1^T` as they learn. If it is :math:`\lambda I`, their
product follows a gradient flow under the kernel

.. math:: \theta(s, t) = \sqrt{s^2 + \lambda^2 / 4} + \sqrt{t^2 + \lambda^2 / 4} .

Of wide random layers it is no multiple of :math:`I`. But the products that move W,
:math:`W_2 W_2^T` and :math:`W_1^T W_1`, both start near :math:`h a^2 I`, and the kernel follows.

The guide tells :doc:`what imbalance does </guide/imbalance>`, and the theory
:ref:`why wide layers have it <wide>`. The calls are `riemdln.DeepLinearMetric`,
`riemdln.gradient_flow`, `riemdln.network_flow` and `riemdln.velocity_error`.

Run it with ``python examples/plot_lazy_and_rich.py``; it writes ``plot_lazy_and_rich.png`` and
``plot_lazy_and_rich_width.png``.
"""

# %%
# Both sides
# ----------
# The target is a 4 x 4 matrix with the singular values 4, 2, 1 and 1/2. One side is a gradient flow
# that starts from zero and knows of no layers. The other side is a network that knows of no
# metric.
#
# The rows of :math:`W_2` and the columns of :math:`W_1` span a space of eight dimensions, and never
# leave it. So a flow of any width costs as much as one of eight hidden neurons.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.integrate import quad

import riemdln

TARGET_VALUES = np.array([4.0, 2.0, 1.0, 0.5])
rng = np.random.default_rng(0)
left, right = np.linalg.qr(rng.standard_normal((2, 4, 4)))[0]
target = left * TARGET_VALUES @ right


def problem_at(imbalance):
    """Half the squared distance from the target, under the metric of one imbalance."""
    manifold = riemdln.FullRank(4, 4, riemdln.DeepLinearMetric(2, imbalance=imbalance))
    numpy = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum((W - target) ** 2) / 2),
        euclidean_gradient=numpy(lambda W: W - target),
    )


def wide_layers(width, imbalance):
    """Random layers with 2 h a^2 = imbalance, in a basis of the directions that move."""
    scale = np.sqrt(imbalance / (2 * width))
    first, second = riemdln.random_layers([4, width, 4], scale=scale, rng=rng)
    basis = np.linalg.qr(np.hstack([first, second.T]))[0]
    return [basis.T @ first, second @ basis]


def modes(points):
    """How much of each mode of the target has been learned."""
    return np.einsum("ai,tab,ib->ti", left, points, right) / TARGET_VALUES


# %%
# Learning curves
# ---------------
# From rich to lazy. When is half of a mode learned? On its own a mode moves by
# :math:`\dot s = \theta(s, s) (\sigma - s)`, and the time is an integral.


def half_time(value, imbalance):
    """The time at which a mode has come from 0 to half of the target's singular value."""
    return quad(lambda s: 0.5 / (np.hypot(s, imbalance / 2) * (value - s)), 0, value / 2)[0]


def crossing(times, shares):
    """When each mode is half learned, between two times on a straight line."""
    later = np.argmax(shares > 0.5, axis=0)
    before, after = np.take_along_axis(shares, np.array([later - 1, later]), axis=0)
    return times[later - 1] + (0.5 - before) / (after - before) * (times[later] - times[later - 1])


WIDE = 10**5
IMBALANCES = np.geomspace(1e-2, 10, 7)
halves = np.array([[half_time(value, l) for value in TARGET_VALUES] for l in IMBALANCES])
curves, measured = {}, []
for imbalance, half in zip(IMBALANCES, halves, strict=True):
    problem = problem_at(imbalance)
    times = half[0] * np.linspace(0, 1.6 * half[-1] / half[0] + 1.6, 161)
    flow = riemdln.gradient_flow(problem, np.zeros((4, 4)), times)
    network = riemdln.network_flow(problem, wide_layers(WIDE, imbalance), times)
    curves[imbalance] = times / half[0], modes(flow.points), modes(network.points)
    measured.append(crossing(times, modes(network.points)))
    by_flow = crossing(times, modes(flow.points))
    print(
        f"imbalance {imbalance:6.2f}: half-way at {np.round(half / half[0], 2)} of the first "
        f"mode's time; wide layers {np.round(measured[-1] / half[0], 2)}"
    )
    assert np.allclose(by_flow, half, rtol=1e-2)
    assert np.allclose(measured[-1], half, rtol=0.1)
lateness = halves[:, -1] / halves[:, 0]
assert np.all(np.diff(lateness) < 0)
assert lateness[0] > 5
assert lateness[-1] < 1.05

# %%
# How wide is wide?
# -----------------
# The layers move W with minus :math:`W_2 W_2^T P + P W_1^T W_1`, P the gradient. How far this
# map is from the cometric, as a share of its norm, falls as the root of 1 / h, before and
# after learning. So does the distance of the two paths.

WIDTHS = 10 ** np.arange(2, 6)
CHOSEN = [IMBALANCES[0], 1.0, IMBALANCES[-1]]


def errors_at(imbalance, width):
    """Of the velocity at the first and the last time, and of the path: the mean of three draws."""
    problem, times = problem_at(imbalance), half_time(4.0, imbalance) * np.linspace(0, 5, 41)
    exact = riemdln.gradient_flow(problem, np.zeros((4, 4)), times).points
    errors = []
    for _ in range(3):
        network = riemdln.network_flow(problem, wide_layers(width, imbalance), times, rtol=1e-6)
        metric = problem.manifold.metric
        ends = [riemdln.velocity_error(network.layers[k], metric) for k in (0, -1)]
        path = np.linalg.norm(network.points - exact, axis=(1, 2)).max() / np.linalg.norm(target)
        errors.append([*ends, path])
    return np.mean(errors, axis=0)


print()
errors = {}
for imbalance in CHOSEN:
    errors[imbalance] = np.array([errors_at(imbalance, width) for width in WIDTHS])
    powers = np.polyfit(np.log(WIDTHS), np.log(errors[imbalance]), 1)[0]
    print(
        f"imbalance {imbalance:5.2f}: errors go as powers of the width, {powers.round(2)} "
        "(velocity before and after learning, path)"
    )
    assert np.allclose(powers, -0.5, atol=0.15)

# %%
# The figures
# -----------
# They stand at the head of this page. The grey line falls as the root of 1 / h.

COLOURS = ["#000000", "#0072B2", "#D55E00", "#CC79A7"]
figure, (rich, lazy) = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for panel, k, title in ((rich, 0, "Rich: one by one"), (lazy, -1, "Lazy: all at once")):
    times, of_flow, of_layers = curves[IMBALANCES[k]]
    for i, colour in enumerate(COLOURS):
        panel.plot(
            times, of_flow[:, i], color=colour, label=f"mode $\\sigma = {TARGET_VALUES[i]:g}$"
        )
        panel.plot(times[4::8], of_layers[4::8, i], "o", color=colour, markersize=4)
    panel.set(
        title=f"{title}, imbalance {IMBALANCES[k]:.3g}",
        xlabel="time / time at which the first mode is half learned",
        ylabel="share of a mode that has been learned",
        ylim=(-0.05, 1.05),
    )
    panel.grid(alpha=0.25)
rich.plot([], [], color="0.5", label="flow of the metric")
rich.plot([], [], "o", color="0.5", markersize=4, label="wide random layers")
rich.legend(frameon=False, loc="lower right")
figure.suptitle("Wide random layers learn modes one by one or all at once", fontsize=13)
figure.savefig("plot_lazy_and_rich.png", dpi=150)

figure, (late, wide) = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for i, colour in enumerate(COLOURS):
    late.semilogx(
        IMBALANCES,
        halves[:, i] / halves[:, 0],
        color=colour,
        label=f"$\\sigma = {TARGET_VALUES[i]:g}$",
    )
    late.plot(IMBALANCES, np.array(measured)[:, i] / halves[:, 0], "o", color=colour, markersize=5)
late.set(
    title="From rich to lazy (dots: wide layers)",
    xlabel=r"imbalance $\lambda = 2 h a^2$",
    ylabel="time half-way / that of the first mode",
    ylim=(0, 6.2),
)
for imbalance, colour in zip(CHOSEN, ["#009E73", "#E69F00", "#56B4E9"], strict=True):
    before, _, path = errors[imbalance].T
    wide.loglog(WIDTHS, before, "o-", color=colour, label=f"$\\lambda = {imbalance:.3g}$")
    wide.loglog(WIDTHS, path, "s--", color=colour, markerfacecolor="white")
wide.plot([], [], "o-", color="0.5", label="velocity at the start")
wide.plot([], [], "s--", color="0.5", markerfacecolor="white", label="path")
wide.plot(WIDTHS, 10 / WIDTHS**0.5, color="0.6", linewidth=1)
wide.set(
    title="The wider, the nearer to the metric",
    xlabel="hidden width h",
    ylabel="relative distance from the metric",
)
wide.set_ylim(1e-4, None)
late.legend(frameon=False)
wide.legend(frameon=False, loc="lower left", ncols=2)
for panel in (late, wide):
    panel.grid(alpha=0.25)
figure.suptitle(r"The imbalance $\lambda = 2 h a^2$ decides what wide layers do", fontsize=13)
figure.savefig("plot_lazy_and_rich_width.png", dpi=150)
plt.show()
