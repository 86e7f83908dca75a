r"""
Greedy learning: from a tiny start, one rank after the other
============================================================

A run from near zero learns one mode after the other, the strongest first, and waits at a saddle
between two. The smaller the start, the closer it comes to these saddles, and the longer it stays.

.. image:: images/sphx_glr_plot_greedy_learning_001.png
   :alt: From smaller starts singular values, and the effective rank, rise by sharper steps
   :class: figures-first
   :target: ../_images/sphx_glr_plot_greedy_learning_001.png

.. image:: images/sphx_glr_plot_greedy_learning_002.png
   :alt: From smaller starts a run passes nearer to saddles, and takes longer to leave zero
   :class: figures-first
   :target: ../_images/sphx_glr_plot_greedy_learning_002.png

Theory predicts both over twenty to thirty orders of magnitude. The entries of a matrix cannot hold
so small a singular value beside a large one. So starts are given as triples (u, s, vt), and the
flow computes every singular value to relative accuracy. The guide tells
:doc:`where runs end </guide/where_runs_end>`, and the theory has :ref:`the formulas <escape>`,
which `riemdln.critical_points` and `riemdln.escape_time` compute. See
:doc:`/gallery/plot_through_a_saddle` for a single saddle, and for a flow that keeps the entries
instead.

Run it with ``python examples/plot_greedy_learning.py``; it writes ``plot_greedy_learning.png`` and
``plot_greedy_learning_saddles.png``. It needs the extra ``stiff``: ``pip install scikit-sundae``.
"""

# %%
# The problem
# -----------
# The loss is :math:`\|W - T\|^2 / 2`, and the target :math:`T` is a 5 x 4 matrix of three modes:
# pairs of singular vectors with the singular values 4, 2.5 and 1. Starts have singular values of
# about :math:`\varepsilon`, and singular vectors that are turned from those of the target.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.sparse import coo_array

import riemdln

MODES = np.array([4.0, 2.5, 1.0])
COLOURS = {2: "#0072B2", 3: "#D55E00", 5: "#009E73"}
rng = np.random.default_rng(0)


def orthonormal(matrix):
    return np.linalg.qr(matrix)[0]


left, right = (orthonormal(rng.standard_normal((size, 3))) for size in (5, 4))
target = left * MODES @ right.T
# Orthogonal to the modes there is one more direction of the 5 x 4 matrix to start in.
start_left = orthonormal(np.c_[left + 0.2 * rng.standard_normal((5, 3)), rng.standard_normal(5)])
start_right = orthonormal(np.c_[right + 0.2 * rng.standard_normal((4, 3)), rng.standard_normal(4)])


def start_of(size):
    return start_left, size * np.array([1.0, 0.9, 0.8, 0.7]), start_right.T


def problem_at(depth):
    """Half the squared distance from the target, under the metric of one depth."""
    manifold = riemdln.FullRank(5, 4, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    return pymanopt.Problem(manifold, cost)


def matrices(flow):
    return np.array([u * s @ vt for u, s, vt in flow.points])


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_greedy_learning_001_1.png"

# %%
# A run passes the critical points that are made of the strongest modes. At depth 2 all but the last
# are strict saddles. At depth 3 these saddles have no direction of negative curvature.

by_rank = [range(k) for k in range(4)]
saddles = list(riemdln.critical_points(target, depth=2, modes=by_rank))
for point, deeper in zip(
    saddles, riemdln.critical_points(target, depth=3, modes=by_rank), strict=True
):
    print(
        f"rank {point.rank}: cost {point.cost:.3f}; depth 2: {point.kind}, escape rate "
        f"{point.escape_rate:.3f}; depth 3: {deeper.kind}"
    )
assert [point.kind for point in saddles] == ["strict saddle"] * 3 + ["minimum"]

# %%
# Steps
# -----
# At depth 2 mode :math:`k` appears at the time :math:`\ln(1 / \varepsilon) / (2 \sigma_k)`. In
# units of :math:`\ln(1 / \varepsilon)` this time is the same for all starts, and steps get sharper
# as starts get smaller.

STARTS = [1e-2, 1e-10, 1e-30]
steps, halves = {}, {}
for size in STARTS:
    span = 0.8 * np.log(1 / size)
    steps[size] = riemdln.gradient_flow(
        problem_at(2), start_of(size), np.linspace(0, span, 121), rtol=1e-6
    )
    halves[size] = [
        np.interp(sigma / 2, s, steps[size].times)
        for sigma, s in zip(MODES, steps[size].singular_values.T, strict=False)
    ]
    shares = np.round(halves[size] / np.log(1 / size), 3)
    print(f"start {size:.0e}: modes half-way at {shares} ln(1 / start)")
later = np.subtract(halves[1e-30], halves[1e-10]) / np.log(1e20)
print(f"each of ln(1 / start) takes {later}, predicted {1 / (2 * MODES)}")
np.testing.assert_allclose(later, 1 / (2 * MODES), rtol=1e-2)

# %%
# How close it comes
# ------------------
# At depth 2 a run is nearest to the critical point of rank :math:`k` at the time
# :math:`\ln(1 / \varepsilon) / (\sigma_k + \sigma_{k+1})`, at a distance that falls as
# :math:`\varepsilon^{(\sigma_k - \sigma_{k+1}) / (\sigma_k + \sigma_{k+1})}`. At depth 3 it waits
# so long that all but the small singular values settle, and the distance falls as
# :math:`\varepsilon`.

SIZES = {2: 10.0 ** -np.array([2, 10, 20, 30]), 3: 10.0 ** -np.array([2, 6, 10])}
EXPONENTS = {
    2: (MODES[:-1] - MODES[1:]) / (MODES[:-1] + MODES[1:]),
    3: np.ones(2),
}
distances = {}
for depth, sizes in SIZES.items():
    rows = []
    for size in sizes:
        if depth == 2:
            times = np.r_[0, np.log(1 / size) / (MODES[:-1] + MODES[1:])]
            flow = riemdln.gradient_flow(problem_at(2), start_of(size), times)
            found = matrices(flow)[1:, None]
        else:
            times = np.linspace(0, 1.3 * riemdln.escape_time(size, MODES[2], depth), 40)
            flow = riemdln.gradient_flow(
                problem_at(depth), start_of(size), times, method="CVODE", rtol=1e-6, atol=1e-8
            )
            found = np.broadcast_to(matrices(flow), (2, len(flow.times), 5, 4))
        passed = np.array([point.point for point in saddles[1:3]])[:, None]
        rows.append(np.linalg.norm(found - passed, axis=(2, 3)).min(axis=1))
    distances[depth] = np.array(rows)
    late = sizes < 1e-5
    slopes = np.polyfit(np.log(sizes[late]), np.log(distances[depth][late]), 1)[0]
    print(f"depth {depth}: distances fall as start^{np.round(slopes, 4)}")
    print(f"  predicted exponents {np.round(EXPONENTS[depth], 4)}")
    np.testing.assert_allclose(slopes, EXPONENTS[depth], rtol={2: 0.01, 3: 0.1}[depth])

# %%
# How long it stays
# -----------------
# The time to leave zero is the time until half of the first mode is learned. Its law is that of a
# single number, `riemdln.escape_time`: :math:`\ln(1 / \varepsilon) / (2 \sigma)` at depth 2, and
# :math:`\varepsilon^{-(1 - 2/N)} / ((N - 2) \sigma)` at depth :math:`N > 2`. While the singular
# vectors still turn the times shift a little. Slope and power stay as they are.

ESCAPES = 10.0 ** -np.array([3, 13, 23])
predicted = {depth: riemdln.escape_time(ESCAPES, MODES[0], depth) for depth in COLOURS}
measured = {
    depth: np.array(
        [
            riemdln.gradient_flow(
                problem_at(depth),
                start_of(size),
                [0.0, 3 * time],
                rtol=1e-6,
                stop=lambda time, W, cost, norm: W.s[0] >= MODES[0] / 2,
            ).times[-1]
            for size, time in zip(ESCAPES, predicted[depth], strict=True)
        ]
    )
    for depth in COLOURS
}
logs = np.log(1 / ESCAPES)
slope = np.polyfit(logs, measured[2], 1)[0]
print(f"depth 2: {slope:.5f} ln(1 / start), predicted {1 / (2 * MODES[0]):.5f}")
assert abs(slope * 2 * MODES[0] - 1) < 0.01
for depth in (3, 5):
    power = np.polyfit(logs, np.log(measured[depth]), 1)[0]
    print(f"depth {depth}: start^-{power:.5f}, predicted start^-{1 - 2 / depth:.5f}")
    print(f"  from {measured[depth][0]:.3g} to {measured[depth][-1]:.3g}")
    assert abs(power / (1 - 2 / depth) - 1) < 0.01

# %%
# A completion problem
# --------------------
# Where only some entries are observed the modes are not known beforehand. Runs are as greedy: the
# effective rank goes up by steps. It is the exponential of the entropy of the shares
# :math:`s_i / \sum_j s_j` (Roy and Vetterli 2007). It starts near 12, where all singular values are
# about equal.

hidden = orthonormal(rng.standard_normal((12, 3))) * [12.0, 6.0, 3.0]
hidden = hidden @ orthonormal(rng.standard_normal((12, 3))).T
seen = rng.random(hidden.shape) < 0.8
completion = riemdln.MatrixCompletion(coo_array((hidden[seen], np.nonzero(seen)), shape=(12, 12)))
u, vt = (orthonormal(rng.standard_normal((12, 12))) for _ in range(2))
problem = completion.problem(riemdln.FullRank(12, 12, riemdln.DeepLinearMetric(2)))

ranks = {}
for size in STARTS:
    start = u, size * np.linspace(1.0, 0.5, 12), vt
    times = np.log(1 / size) * np.linspace(0, 0.6, 81)
    flow = riemdln.gradient_flow(problem, start, times, method="CVODE", rtol=1e-6, atol=1e-8)
    ranks[size] = times / np.log(1 / size), riemdln.effective_rank(flow.singular_values)
    error = np.linalg.norm(matrices(flow)[-1] - hidden) / np.linalg.norm(hidden)
    print(f"completion from {size:.0e}: relative error of all entries at the end {error:.1e}")
plateaus = riemdln.effective_rank([[12, 0, 0], [12, 6, 0], [12, 6, 3]])
missed = {size: np.abs(rank - plateaus[:, None]).min(axis=1) for size, (_, rank) in ranks.items()}
for size, gaps in missed.items():
    print(f"effective ranks from {size:.0e} miss those of 1, 2 and 3 modes by {np.round(gaps, 5)}")
assert missed[1e-30][0] < 1e-9 < missed[1e-10][0] < 1e-3 < 0.1 < missed[1e-2][0]
assert error < 0.05

# %%
# The figures
# -----------
# They stand at the head of this page. In the second one the lines on the left have the predicted
# exponents, and pass through the last points.

figure, (values, rank_panel) = plt.subplots(1, 2, figsize=(9, 5.6), layout="constrained")
SHADES = dict(zip(STARTS, ["#9ecae1", "#4292c6", "#08306b"], strict=True))
for size, shade in SHADES.items():
    name = rf"$\varepsilon = 10^{{{np.log10(size):.0f}}}$"
    flow = steps[size]
    lines = values.plot(flow.times / np.log(1 / size), flow.singular_values[:, :3], color=shade)
    lines[0].set_label(name)
    rank_panel.plot(*ranks[size], color=shade)
for k, (sigma, side) in enumerate(zip(MODES, ("right", "left", "left"), strict=True), 1):
    time, formula = 1 / (2 * sigma), rf" $1 / (2 \sigma_{k})$ "
    values.axvline(time, color="0.5", linewidth=0.8, linestyle=":")
    figure.text(time, 4.25, formula, ha=side, transform=values.transData)
for plateau, name in zip(plateaus, ("1 mode", "2 modes", "3 modes"), strict=True):
    rank_panel.axhline(plateau, color="0.5", linewidth=0.8, linestyle=":")
    rank_panel.annotate(
        f"{name} of $T$", (0.6, plateau), (0, -4), textcoords="offset points", ha="right", va="top"
    )
values.plot([], [], color="0.5", linewidth=0.8, linestyle=":", label="predicted for small starts")
values.set_title("Three singular values, one after the other", fontsize=11)
values.set(
    xlabel=r"time / $\ln(1 / \varepsilon)$", ylabel="singular values of $W$", ylim=(-0.2, 4.6)
)
rank_panel.set_title("Completion: rank 1, then 2, then 3", fontsize=11)
rank_panel.set(
    xlabel=r"time / $\ln(1 / \varepsilon)$", ylabel="effective rank of $W$", ylim=(0.75, 4)
)
for panel in (values, rank_panel):
    panel.grid(alpha=0.25)
figure.legend(
    title=(
        r"Gradient flow at depth 2 from singular values of about $\varepsilon$, to a target $T$."
        "\n"
        r"Left: loss $\|W - T\|^2 / 2$, $T$ is 5 x 4 with singular values $\sigma_k$: 4, 2.5, 1."
        "\nRight: 80% of the entries of a 12 x 12 $T$ of rank 3. "
        r"Effective rank: exponential of the entropy of all $s_i / \sum_j s_j$."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=4,
)
figure.suptitle("The smaller the start, the more clearly one rank is learned after the other")
figure.savefig("plot_greedy_learning.png", dpi=150)

figure, (close, escapes) = plt.subplots(1, 2, figsize=(9, 5.6), layout="constrained")
for depth, sizes in SIZES.items():
    for rank, marker in ((1, "^"), (2, "s")):
        distance, exponent = distances[depth][:, rank - 1], EXPONENTS[depth][rank - 1]
        close.loglog(sizes, distance, marker, color=COLOURS[depth], markersize=5)
        law = distance[-1] * (sizes / sizes[-1]) ** exponent
        close.loglog(sizes, law, color=COLOURS[depth], linewidth=0.8)
for depth, colour in COLOURS.items():
    escapes.loglog(
        ESCAPES, predicted[depth], color=colour, linewidth=0.8, label=f"depth {depth}, predicted"
    )
    escapes.loglog(ESCAPES, measured[depth], "o", color=colour, markersize=5)
for marker, name in (("^", "saddle of rank 1"), ("s", "saddle of rank 2"), ("o", "escape from 0")):
    escapes.plot([], [], marker, color="0.5", markersize=5, label=f"measured: {name}")
close.set_title("Ever closer to saddles", fontsize=11)
close.set_ylabel("least distance from the saddle on the way")
escapes.set_title("Ever longer at zero", fontsize=11)
escapes.set_ylabel("time until $s_1$ is half of 4")
for panel in (close, escapes):
    panel.set_xlabel(r"size $\varepsilon$ of the start, falling")
    panel.invert_xaxis()
    panel.grid(alpha=0.25)
figure.legend(
    title=(
        r"Gradient flow of $\|W - T\|^2 / 2$ from singular values of about $\varepsilon$;"
        " $T$ has the singular values 4, 2.5, 1.\n"
        "Saddle of rank 1 or 2: the part of $T$ with the largest one or two of them alone."
    ),
    frameon=False,
    loc="outside lower center",
    ncols=3,
)
figure.suptitle("The smaller the start, the closer a run passes saddles, and the longer it stays")
figure.savefig("plot_greedy_learning_saddles.png", dpi=150)
plt.show()
