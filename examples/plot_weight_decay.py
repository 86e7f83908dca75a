r"""
Weight decay of layers takes singular values to zero
====================================================

Weight decay on the layers takes small singular values of their product to zero. At depth 2 it does
so gradually, at greater depths by a jump at a threshold.

.. image:: images/sphx_glr_plot_weight_decay_001.png
   :alt: Weight decay takes a small singular value to zero, gently at depth 2, by a jump if deeper
   :class: figures-first
   :target: ../_images/sphx_glr_plot_weight_decay_001.png

The guide tells how to use :doc:`weight decay </guide/weight_decay>`, and the theory has
:ref:`its equations <decay>`. The functions are `riemdln.layer_decay`, `riemdln.collapse_threshold`
and `riemdln.decayed_singular_value`.

Run it with ``python examples/plot_weight_decay.py``; it writes ``plot_weight_decay.png``.
"""

# %%
# Weight decay on the matrix
# --------------------------
# Weight decay adds :math:`\tfrac{\mu}{2} \sum_j \|W_j\|^2` to the loss of a network. For :math:`N`
# balanced layers that is :math:`\tfrac{\mu N}{2} \sum_i s_i^{2/N}` of their product :math:`W`, with
# the Riemannian gradient :math:`\mu N W`. Let the loss be :math:`\|W - T\|^2 / 2`, with a target
# :math:`T` of the same singular vectors. A singular value :math:`s` of :math:`W` then moves towards
# the one :math:`\sigma` of :math:`T` by
#
# .. math:: \dot s = N s^{2 - 2/N} (\sigma - s) - \mu N s .
#
# It rests at zero, or where :math:`\sigma = s + \mu s^{2/N - 1}`. At infinite depth the metric is
# the limit of :math:`N g^N`, and time is :math:`N` times as long.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln

RATE = 0.25
DEPTHS = [1, 1.5, 2, 3, np.inf]


def problem_at(depth, target, rate=RATE):
    """Half the squared distance from the target, with weight decay at one depth."""
    target = np.asarray(target)
    manifold = riemdln.FullRank(*target.shape[-2:], riemdln.DeepLinearMetric(depth))
    plain = pymanopt.function.numpy(manifold)
    loss = pymanopt.Problem(
        manifold,
        plain(lambda W: np.sum((W - target) ** 2, axis=(-2, -1)) / 2),
        euclidean_gradient=plain(lambda W: W - target),
    )
    return riemdln.layer_decay(loss, rate)


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_weight_decay_001_1.png"

# %%
# What is left
# ------------
# The threshold and the jump have closed forms, and flows agree with them. Flows of 1 x 1 matrices
# that start at 3 end at `riemdln.decayed_singular_value`. At each depth one run flows to ten
# targets at once, none of them close to the threshold.

targets = np.array([0.1, 0.2, 0.35, 0.55, 0.7, 0.85, 1.1, 1.3, 1.6, 1.9])
ends = {}
for depth in DEPTHS:
    time = 40 / (RATE * (1 if np.isinf(depth) else depth))
    problem = problem_at(depth, targets[:, None, None])
    flow = riemdln.gradient_flow(
        problem, np.full((len(targets), 1, 1), 3.0), [0, time], vectorized=True
    )
    ends[depth] = flow.points[-1, :, 0, 0]
    left = riemdln.decayed_singular_value(targets, RATE, depth)
    error = np.max(np.abs(ends[depth] - left))
    threshold = riemdln.collapse_threshold(RATE, depth)
    print(
        f"depth {depth}: targets below {threshold.sigma:.4f} collapse, above it at least "
        f"{threshold.singular_value:.4f} is left; flows end there to {error:.0e}"
    )
    assert error < 1e-3
    assert np.all((ends[depth] > 1e-3) | (targets < threshold.sigma))

# %%
# The threshold
# -------------
# From a large start, a singular value with a target 1% below the threshold goes to zero, and one
# with a target 1% above does not. This is checked at five depths above 2 and two rates.

DEEP = [2.5, 3, 4, 8, np.inf]
RATES = [0.05, 1.0]
for rate in RATES:
    for depth in DEEP:
        threshold = riemdln.collapse_threshold(rate, depth)
        pair = threshold.sigma * np.array([0.99, 1.01])
        # Time in units of what the threshold's own singular value takes.
        growth = rate * (1 if np.isinf(depth) else depth)
        flow = riemdln.gradient_flow(
            problem_at(depth, pair[:, None, None], rate),
            np.full((2, 1, 1), 3 * threshold.sigma),
            [0, 120 / growth],
            rtol=1e-6,
            vectorized=True,
        )
        below, above = flow.points[-1, :, 0, 0] / threshold.singular_value
        assert below < 1e-2
        assert above > 1

# %%
# A flow of a matrix
# ------------------
# The target is a 4 x 4 matrix with the singular values 4, 2, 0.7 and 0.3. The threshold is 0.25 at
# depth 2, so none of them collapses. It is 0.62 at depth 3, where one collapses, and 1 at infinite
# depth, where two do. Those that collapse go to zero as :math:`e^{-\mu N t}`, and the flow keeps
# their relative accuracy.

rng = np.random.default_rng(1)
U, V = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2))
values = np.array([4.0, 2.0, 0.7, 0.3])
target = U * values @ V.T
start = U * [3.0, 2.5, 2.0, 1.5] @ V.T + 0.2 * rng.standard_normal((4, 4))
RUNS = [2, 3, np.inf]
flows = {}
for depth in RUNS:
    growth = RATE * (1 if np.isinf(depth) else depth)
    times = np.linspace(0, 50, 201) / growth
    flow = riemdln.gradient_flow(problem_at(depth, target), start, times, rtol=1e-6)
    flows[depth] = growth * times, flow.singular_values
    left = riemdln.decayed_singular_value(values, RATE, depth)
    print(f"depth {depth}: {flow.singular_values[-1]}, expected {left}")
    assert np.allclose(flow.singular_values[-1], left, atol=1e-3)
    collapsed = left == 0
    rates = -np.diff(np.log(flow.singular_values[-41::40, collapsed]), axis=0) / 10
    assert np.allclose(rates, 1, atol=0.02)
assert [np.sum(flow[-1] < 1e-10) for _, flow in flows.values()] == [0, 1, 2]

# %%
# The figure
# ----------
# It stands at the head of this page.

COLOURS = dict(zip(DEPTHS, ["#000000", "#009E73", "#0072B2", "#D55E00", "#CC79A7"], strict=True))
LABELS = {depth: rf"depth ${depth}$" for depth in DEPTHS} | {np.inf: r"depth $\infty$"}
figure, panels = plt.subplot_mosaic(
    [["fate", "thresholds"], ["collapse", "collapse"]],
    figsize=(9, 9),
    height_ratios=[4, 3],
    layout="constrained",
)
fate, thresholds, collapse = (panels[name] for name in ("fate", "thresholds", "collapse"))
sigma = np.linspace(0, 2, 801)
for depth, colour in COLOURS.items():
    left = riemdln.decayed_singular_value(sigma, RATE, depth)
    jump = np.argmax(left > 0.02) if depth > 2 else 0
    for part in (slice(jump, None), slice(None, jump)):
        fate.plot(sigma[part], left[part], color=colour)
    fate.plot([], [], color=colour, label=LABELS[depth])
    # Dots at zero lie within each other.
    fate.plot(targets, ends[depth], "o", color=colour, markersize={2: 7, 3: 5}.get(depth, 3))
fate.axline(
    (0, 0), slope=1, color="0.5", linewidth=0.8, linestyle=":", label=r"no decay, $s = \sigma$"
)
fate.plot([], [], "o", color="0.5", markersize=4, label="end of a flow")
fate.set_title("Small singular values go to zero", fontsize=11)
fate.set(
    xlabel=r"singular value $\sigma$ of the target $T$",
    ylabel="singular value $s$ of $W$ with decay",
    xlim=(0, 2),
    ylim=(-0.06, 2),
)
rates = np.geomspace(0.01, 2, 100)
for depth in (2, 3, np.inf):
    closed = np.array([riemdln.collapse_threshold(rate, depth) for rate in rates])
    thresholds.loglog(rates, closed[:, 0], color=COLOURS[depth])
    if depth > 2:
        thresholds.loglog(rates, closed[:, 1], color=COLOURS[depth], linestyle="--")
thresholds.plot([], [], color="0.5", linestyle="--", label=r"$s$ just above $\sigma_c$")
thresholds.set_title(r"The threshold $\sigma_c$ grows with $\mu$", fontsize=11)
thresholds.set(
    xlabel=r"rate $\mu$ of the decay",
    ylabel=r"threshold $\sigma_c$, and $s$ just above it",
)
for depth in RUNS:
    times, singular_values = flows[depth]
    collapse.semilogy(times, singular_values, color=COLOURS[depth])
collapse.set_title(
    r"$\sigma = 4$, 2, 0.7, 0.3: none goes to zero at depth 2, one at 3, two at $\infty$",
    fontsize=11,
)
collapse.set(
    xlabel=r"time in units of $1 / (\mu N)$, at infinite depth of $1 / \mu$",
    ylabel="singular values of a 4 x 4 $W$",
    xlim=(0, 40),
    ylim=(1e-14, 10),
)
for panel in (fate, thresholds, collapse):
    panel.grid(alpha=0.25)
figure.suptitle(
    "Weight decay takes small singular values to zero: gently at depth 2, by a jump if deeper",
    fontsize=12,
)
figure.legend(
    title=(
        r"Gradient flow of $\|W - T\|^2 / 2 + (\mu / 2) \sum_{j=1}^N \|W_j\|^2$ "
        r"for the balanced layers of $W = W_N \cdots W_1$."
        "\n"
        r"Upper left and below: $\mu = 1/4$. Singular values with $\sigma < \sigma_c$ go to zero."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=4,
)
figure.savefig("plot_weight_decay.png", dpi=150)
plt.show()
