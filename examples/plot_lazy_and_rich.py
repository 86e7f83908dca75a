r"""
Lazy and rich: wide random layers act like imbalance
====================================================

Wide random layers move their product by the metric of an imbalance. At a small imbalance singular
values are learned one by one, which is called rich; at a large one all at once, which is lazy.

.. image:: images/sphx_glr_plot_lazy_and_rich_001.png
   :alt: At a small imbalance four modes are learned one by one, at a large one all at once
   :class: figures-first
   :target: ../_images/sphx_glr_plot_lazy_and_rich_001.png

.. image:: images/sphx_glr_plot_lazy_and_rich_002.png
   :alt: The larger the imbalance, the less modes wait; the wider the layers, the nearer the metric
   :class: figures-first
   :target: ../_images/sphx_glr_plot_lazy_and_rich_002.png

Two layers with :math:`h` hidden neurons and random entries of standard deviation :math:`a` have the
imbalance :math:`\lambda = 2 h a^2`. What counts is whether it is small or large beside the singular
values of the target. A mode is a pair of singular vectors of the target.

The layers keep :math:`W_2^T W_2 - W_1 W_1^T` as they learn. If it is :math:`\lambda I`, their
product follows a gradient flow under the kernel

.. math:: \theta(s, t) = \sqrt{s^2 + \lambda^2 / 4} + \sqrt{t^2 + \lambda^2 / 4} .

For wide random layers it is not a multiple of :math:`I`. But the products that move
:math:`W = W_2 W_1`, :math:`W_2 W_2^T` and :math:`W_1^T W_1`, both start near :math:`h a^2 I`, and
the kernel follows.

The guide tells :doc:`what imbalance does </guide/imbalance>`, and the theory
:ref:`why wide layers have it <wide>`. The calls are `riemdln.DeepLinearMetric`,
`riemdln.gradient_flow`, `riemdln.network_flow` and `riemdln.velocity_error`.

Run it with ``python examples/plot_lazy_and_rich.py``; it writes ``plot_lazy_and_rich.png`` and
``plot_lazy_and_rich_width.png``.
"""

# %%
# Both sides
# ----------
# The target is a 4 x 4 matrix with the singular values 4, 2, 1 and 1/2. One side is the gradient
# flow of one matrix under the metric, which starts from zero. The other side is the flow of the
# layers of a network.
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


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_lazy_and_rich_001_1.png"

# %%
# Learning curves
# ---------------
# A mode with the target's singular value :math:`\sigma` moves by
# :math:`\dot s = \theta(s, s) (\sigma - s)`. The time until half of it is learned is an integral.


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
# The layers move :math:`W` with minus :math:`W_2 W_2^T P + P W_1^T W_1`, where :math:`P` is the
# gradient. The distance of this map from the cometric, relative to its norm, falls as
# :math:`h^{-1/2}`, before and after learning. So does the distance of the two paths.

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
# They stand at the head of this page. The share of a mode that has been learned is
# :math:`u^T W v / \sigma`, with :math:`u` and :math:`v` the target's singular vectors.

COLOURS = ["#000000", "#0072B2", "#D55E00", "#CC79A7"]
SETTING = (
    r"Two layers with $h$ hidden neurons and random entries of standard deviation $a$:"
    r" imbalance $\lambda = 2 h a^2$."
    "\n"
    r"Mode: a singular value $\sigma$ of the 4 x 4 target $T$ and its vectors $u$, $v$;"
    r" loss $\|W - T\|^2 / 2$."
    "\n"
    r"Metric: the one that layers with $W_2^T W_2 - W_1 W_1^T = \lambda I$ give their product $W$."
)
figure, (rich, lazy) = plt.subplots(1, 2, figsize=(9, 5.8), layout="constrained")
for panel, k, title in ((rich, 0, "Rich: one by one"), (lazy, -1, "Lazy: all at once")):
    times, of_flow, of_layers = curves[IMBALANCES[k]]
    for i, colour in enumerate(COLOURS):
        panel.plot(
            times, of_flow[:, i], color=colour, label=f"mode $\\sigma = {TARGET_VALUES[i]:g}$"
        )
        panel.plot(times[4::8], of_layers[4::8, i], "o", color=colour, markersize=4)
    panel.set_title(rf"{title} ($\lambda = {IMBALANCES[k]:.3g}$)", fontsize=11)
    panel.set(
        xlabel="time / time at which the first mode is half learned",
        ylabel=r"share learned of each mode, $u^T W v / \sigma$",
        ylim=(-0.05, 1.05),
    )
    panel.grid(alpha=0.25)
rich.plot([], [], color="0.5", label="one matrix under the metric")
rich.plot([], [], "o", color="0.5", markersize=4, label="layers, $h = 10^5$, one draw")
lazy.text(
    0.96,
    0.06,
    "dots begin a little off 0,\nas random layers do",
    transform=lazy.transAxes,
    ha="right",
)
handles, labels = rich.get_legend_handles_labels()
figure.legend(handles, labels, title=SETTING, frameon=False, loc="outside lower center", ncols=3)
figure.suptitle("Wide random layers learn modes one by one or all at once", fontsize=13)
figure.savefig("plot_lazy_and_rich.png", dpi=150)

figure, (late, wide) = plt.subplots(1, 2, figsize=(9, 6.2), layout="constrained")
for i, colour in enumerate(COLOURS):
    late.semilogx(
        IMBALANCES,
        halves[:, i] / halves[:, 0],
        color=colour,
        label=f"left: mode $\\sigma = {TARGET_VALUES[i]:g}$",
    )
    late.plot(IMBALANCES, np.array(measured)[:, i] / halves[:, 0], "o", color=colour, markersize=5)
late.set_title("From one by one to all at once", fontsize=11)
late.set(
    xlabel=r"imbalance $\lambda$",
    ylabel="time until a mode is half learned / that of the first",
    ylim=(0, 6.2),
)
wide.plot([], [], "o-", color="0.5", label="right: velocity at the start")
wide.plot([], [], "s--", color="0.5", markerfacecolor="white", label="right: path")
for imbalance, colour in zip(CHOSEN, ["#009E73", "#E69F00", "#56B4E9"], strict=True):
    before, _, path = errors[imbalance].T
    wide.loglog(WIDTHS, before, "o-", color=colour, label=f"right: $\\lambda = {imbalance:.3g}$")
    wide.loglog(WIDTHS, path, "s--", color=colour, markerfacecolor="white")
wide.plot(WIDTHS, 10 / WIDTHS**0.5, color="0.6", linewidth=1)
wide.annotate("$h^{-1/2}$", (3e3, 10 / 3e3**0.5), (4, 4), textcoords="offset points", color="0.4")
wide.set_title("The wider, the nearer to the metric", fontsize=11)
wide.set(xlabel="hidden neurons $h$", ylabel="relative distance of the layers from the metric")
late.plot([], [], color="0.5", label="left: one matrix under the metric")
late.plot([], [], "o", color="0.5", markersize=5, label="left: layers, $h = 10^5$")
figure.legend(title=SETTING, frameon=False, loc="outside lower center", ncols=3)
for panel in (late, wide):
    panel.grid(alpha=0.25)
figure.suptitle(
    r"The larger the imbalance $\lambda$ of wide layers, the less small modes wait for large ones",
    fontsize=13,
)
figure.savefig("plot_lazy_and_rich_width.png", dpi=150)
plt.show()
