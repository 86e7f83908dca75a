r"""
Brownian motion: the same singular values at every depth
========================================================

Noise alone moves a matrix differently at each depth. But the N-th roots of its singular values have
one law at all finite depths N, that of a Gaussian matrix.

.. image:: images/sphx_glr_plot_brownian_motion_001.png
   :alt: Densities of roots of singular values at four depths, and of logarithms at infinite depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_brownian_motion_001.png

.. image:: images/sphx_glr_plot_brownian_motion_002.png
   :alt: Densities of the difference and of the ratio of two singular values
   :class: figures-first
   :target: ../_images/sphx_glr_plot_brownian_motion_002.png

.. image:: images/sphx_glr_plot_brownian_motion_003.png
   :alt: How often square and other matrices come near lower rank, and negative determinants
   :class: figures-first
   :target: ../_images/sphx_glr_plot_brownian_motion_003.png

Brownian motion under :math:`g^N` is what noise alone does to a matrix:

.. math:: dW = \tfrac12 \Delta_g W \, dt + A_W^{1/2} \, dB.

It looks different at each depth. Write the singular values as

.. math:: \rho_i = N^{1/2} s_i^{1/N} .

In these variables the volume of all matrices with the same singular values is
:math:`\prod_{i<j} |\rho_i^2 - \rho_j^2| \prod_i \rho_i^{|m - n|}` at every depth, as under the
Euclidean metric. So the :math:`\rho_i` of a motion from :math:`W_0` have, at every finite depth,
the law of the singular values of a Gaussian matrix,

.. math:: \mathrm{diag}(\rho_i(W_0)) + B_t, \qquad B_t \text{ with entries } N(0, t).

At infinite depth :math:`\ln s_i` takes the place of :math:`\rho_i`. Its law is that of the
eigenvalues of a symmetric Gaussian matrix: this is the motion of Dyson (1962). This example draws
from both laws and compares. It shows how singular values repel each other, what depth makes of
that, and which matrices come to lower rank.

The guide has a section on :ref:`Brownian motion <brownian-guide>`, and the theory on :ref:`the law
of its singular values <radial>`. The function is `riemdln.langevin_flow`.

Run it with ``python examples/plot_brownian_motion.py``; it writes ``plot_brownian_motion_law.png``,
``plot_brownian_motion_repulsion.png`` and ``plot_brownian_motion_rank.png``.
"""

# %%
# Copies of one matrix
# --------------------
# 2,000 copies of one matrix move for a unit of time. At each depth the start is the matrix whose
# :math:`\rho_i` are 1.5 and 0.75. Brownian motion has no cost, so the function takes a manifold in
# place of a problem. There is no entropy, and :math:`\beta = 2`.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import ks_2samp

import riemdln

COPIES, EXACT = 2000, 50_000
RHO = np.array([1.5, 0.75])
DEPTHS = [1, 2, 2.5, 3]
rng = np.random.default_rng(0)


def brownian_motion(m, n, depth, singular_values, times, **options):
    """Copies of a diagonal matrix that move by Brownian motion under the metric of one depth."""
    start = np.zeros((COPIES, m, n))
    np.einsum("kii->ki", start[:, :m, :m])[:] = singular_values
    manifold = riemdln.FullRank(m, n, riemdln.DeepLinearMetric(depth))
    return riemdln.langevin_flow(manifold, start, times, beta=2, entropy=False, rng=rng, **options)


def motion_from_rho(m, n, depth, times=(0.0, 1.0), **options):
    return brownian_motion(m, n, depth, (RHO / depth**0.5) ** depth, times, **options)


def gaussian_matrices(m, n, time=1.0):
    """Matrices diag(rho) + B_t."""
    draws = time**0.5 * rng.standard_normal((EXACT, m, n))
    draws[:, [0, 1], [0, 1]] += RHO
    return draws


def distance(draws, exact):
    """The Kolmogorov-Smirnov distances of each singular value to the exact law."""
    return np.array([ks_2samp(*pair).statistic for pair in zip(draws.T, exact.T, strict=True)])


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_brownian_motion_001_1.png"

# %%
# The law
# -------
# The scheme that splits noise into a Gaussian matrix and turns of singular vectors gives singular
# values their law at every step size, so two steps will do. The empirical distribution of K draws
# from a law has a distance to it of about :math:`K^{-1/2}`.

scale = COPIES**-0.5
wide = {}
exact = np.linalg.svd(gaussian_matrices(2, 4), compute_uv=False)
for depth in DEPTHS:
    flow = motion_from_rho(2, 4, depth, step_size=0.5, scheme="splitting")
    wide[depth] = depth**0.5 * flow.singular_values[-1] ** (1 / depth)
    distances = distance(wide[depth], exact)
    print(
        f"2 x 4, depth {depth}: distances of rho_1, rho_2 to the Gaussian law {distances[0]:.4f}, "
        f"{distances[1]:.4f}; 1 / sqrt(K) is {scale:.4f}"
    )
    assert np.all(distances < 2.2 * scale)

# %%
# Repulsion
# ---------
# Two singular values of one matrix are seldom near each other: the density of their distance starts
# at zero, where that of :math:`\rho_1` and :math:`\rho_2` of different copies does not.
# The singular values are powers of these, and repel each other too. Their ratio,
# :math:`s_1 / s_2 = (\rho_1 / \rho_2)^N`, grows with depth: noise alone draws them apart.

together = np.concatenate([values[:, 0] - values[:, 1] for values in wide.values()])
of_one = [rng.permuted(values, axis=1)[:, 0] for values in wide.values()]
apart = np.concatenate([np.abs(values - rng.permutation(values)) for values in of_one])
near, near_apart = np.mean(together < 0.25), np.mean(apart < 0.25)
print(f"closer than 0.25: {near:.1%} of pairs, {near_apart:.1%} of independent ones")
assert near < near_apart / 3
ratios = {depth: depth * np.log(values[:, 0] / values[:, 1]) for depth, values in wide.items()}
exact_ratio = np.log(exact[:, 0] / exact[:, 1])
medians = {depth: np.exp(np.median(ratio)) for depth, ratio in ratios.items()}
print("medians of s_1 / s_2:", ", ".join(f"depth {d}: {x:.1f}" for d, x in medians.items()))
assert np.all(np.diff(list(medians.values())) > 0)

# %%
# Lower rank
# ----------
# The chance that :math:`\rho_2` is less than a small x is a multiple of :math:`x^{|m - n| + 1}`. If
# W is not square, this is too small for any path to come to lower rank. Paths of
# square matrices come to determinant zero, and go through as balanced layers do: the smallest
# singular value of each layer changes its sign. So the determinant changes its sign at odd depths,
# as that of a Gaussian matrix does, and never at even ones.

times = np.linspace(0, 1, 9)
exact_square = np.linalg.svd(gaussian_matrices(2, 2), compute_uv=False)
exact_negative = [np.mean(np.linalg.det(gaussian_matrices(2, 2, time)) < 0) for time in times]
square, negative = {}, {}
for depth in (2, 3):
    flow = motion_from_rho(2, 2, depth, times, step_size=1 / 8, scheme="splitting")
    square[depth] = depth**0.5 * flow.singular_values[-1] ** (1 / depth)
    negative[depth] = np.mean(np.linalg.det(flow.points) < 0, axis=1)
    distances = distance(square[depth], exact_square)
    print(
        f"2 x 2, depth {depth}: distances {distances[0]:.4f}, {distances[1]:.4f}; "
        f"negative determinants at time 1: {negative[depth][-1]:.1%}"
    )
    assert np.all(distances < 2.2 * scale)
share = exact_negative[-1]
error = (share * (1 - share)) ** 0.5 * scale
print(f"of Gaussian matrices: {share:.1%}; the standard error of {COPIES} draws is {error:.1%}")
assert np.all(negative[2] == 0)
assert abs(negative[3][-1] - share) < 4 * error
for name, all_depths, gaussian in (("2 x 2", square, exact_square), ("2 x 4", wide, exact)):
    smallest = np.concatenate([values[:, 1] for values in all_depths.values()])
    print(
        f"{name}: rho_2 < 0.3 in {np.mean(smallest < 0.3):.2%} of all copies, Gaussian matrices "
        f"{np.mean(gaussian[:, 1] < 0.3):.2%}; the smallest is {smallest.min():.4f}"
    )

# %%
# Infinite depth
# --------------
# On 3 x 3 matrices the logarithms move by :math:`d\lambda_i = dB_i + \tfrac12 \sum_{j \ne i}
# (\lambda_i - \lambda_j)^{-1} dt`, as eigenvalues of :math:`\mathrm{diag}(\lambda_i(0)) + H_t` do,
# H symmetric with variances t on the diagonal and t / 2 beside it.

LAMBDA, TIME = np.array([0.5, 0.0, -0.5]), 0.25
flow = brownian_motion(
    3, 3, np.inf, np.exp(LAMBDA), [0.0, TIME], step_size=TIME / 5, scheme="splitting"
)
logs = np.log(flow.singular_values[-1])
draws = TIME**0.5 * rng.standard_normal((EXACT, 3, 3))
goe = np.linalg.eigvalsh(np.diag(LAMBDA) + (draws + draws.mT) / 2)[:, ::-1]
distances = distance(logs, goe)
print("3 x 3, infinite depth: distances of ln s_i to Dyson's law", np.round(distances, 4))
assert np.all(distances < 2.2 * scale)

# %%
# The figures
# -----------
# They stand at the head of this page. Grey: the exact law, and the standard error of 2,000 draws
# from it. Marks: the copies.

COLOURS = {1: "#000000", 2: "#0072B2", 2.5: "#009E73", 3: "#D55E00", np.inf: "#CC79A7"}
MARKERS = {1: "o", 2: "s", 2.5: "^", 3: "D", np.inf: "o"}


def two_panels(title):
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, *panels


def finished(figure, name):
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    figure.savefig(f"plot_brownian_motion_{name}.png", dpi=150)


def shares(values, edges):
    return np.histogram(values, edges)[0] / len(values) / np.diff(edges)


def draw_exact(panel, values, edges, **style):
    height = shares(values, edges)
    error = np.sqrt(height / np.diff(edges) / COPIES)
    ends = [np.append(x, x[-1]) for x in (height - error, height + error)]
    panel.fill_between(edges, *ends, step="post", color="0.82", linewidth=0)
    panel.stairs(height, edges, color="0.5", linewidth=0.8, **style)


def draw(panel, values, edges, depth, **style):
    style = {"color": COLOURS[depth], "marker": MARKERS[depth], "markersize": 3.5} | style
    height = shares(values, edges)
    some = height > 0
    panel.plot(((edges[1:] + edges[:-1]) / 2)[some], height[some], linestyle="", **style)


figure, law, dyson = two_panels(
    "Noise gives singular values one law at all finite depths N\n"
    f"Marks: {COPIES:,} copies of one matrix after Brownian motion under $g^N$, the metric that\n"
    "N balanced layers give their product; grey: the exact law"
)
edges = np.linspace(0, 5, 31)
for i in (0, 1):
    draw_exact(law, exact[:, i], edges, label=None if i else "Gaussian matrices")
    for depth, values in wide.items():
        draw(law, values[:, i], edges, depth, label=None if i else f"depth {depth}")
law.set(
    title="Finite depths: as singular values\nof Gaussian matrices",
    xlabel=r"$\rho_i = N^{1/2} s_i^{1/N}$ of $2 \times 4$ matrices",
    ylabel="density",
    xlim=(0, 5),
    ylim=(-0.02, 1.4),
)
law.text(0.45, 0.6, r"$\rho_2$")
law.text(3.4, 0.52, r"$\rho_1$")
law.legend(frameon=False)
edges = np.linspace(-2, 2, 41)
for i in range(3):
    draw_exact(dyson, goe[:, i], edges)
    draw(dyson, logs[:, i], edges, np.inf)
    dyson.text(0.92 - 0.92 * i, 1.18, rf"$\ln s_{i + 1}$", ha="center")
dyson.set(
    title="Infinite depth: as eigenvalues of\nsymmetric Gaussian matrices (Dyson)",
    xlabel=r"$\ln s_i$ of $3 \times 3$ matrices",
    ylabel="density",
    xlim=(-2, 2),
    ylim=(0, 1.5),
)
finished(figure, "law")

figure, gap, ratio = two_panels(
    "Singular values repel each other, the more the deeper\n"
    f"Marks: {COPIES:,} $2 \\times 4$ matrices per depth after Brownian motion; solid: exact laws"
)
edges = np.linspace(0, 4, 33)
draw_exact(gap, exact[:, 0] - exact[:, 1], edges)
gap.stairs(shares(apart, edges), edges, color="0.3", linestyle=":", label="in two copies")
draw(gap, together, edges, 1, label="in one copy, all depths", color="0.3")
gap.legend(frameon=False)
gap.set(
    title="In one matrix few are near each other",
    xlabel=r"distance of two $\rho_i = N^{1/2} s_i^{1/N}$",
    ylabel="density",
    xlim=(0, 4),
    ylim=(0, 0.82),
)
edges = np.linspace(0, 10, 51)
for depth, values in ratios.items():
    ratio.stairs(shares(depth * exact_ratio, edges), edges, color=COLOURS[depth], linewidth=0.8)
    draw(ratio, values, edges, depth, label=f"depth {depth}")
ratio.legend(frameon=False)
ratio.set(
    title="Depth draws them apart",
    xlabel=r"logarithm of the ratio, $\ln(s_1 / s_2)$",
    ylabel="density",
    xlim=(0, 7),
)
finished(figure, "repulsion")

figure, rank, signs = two_panels(
    "Only square matrices come to lower rank, and pass through it\n"
    f"Colours: {COPIES:,} copies of one matrix in Brownian motion; grey: Gaussian matrices"
)
levels = np.geomspace(5 / COPIES, 1, 200)
lowest = np.quantile(exact_square[:, 1], levels), np.quantile(exact[:, 1], levels)
rank.loglog(np.transpose(lowest), levels, color="0.5", linewidth=0.8)
for values, line in ((square, "-"), (wide, "--")):
    for depth in (2, 3):
        smallest = np.quantile(values[depth][:, 1], levels)
        rank.loglog(smallest, levels, line, color=COLOURS[depth])
rank.text(0.02, 0.05, "$2 \\times 2$:\nlike $x$", ha="center")
rank.text(0.9, 0.01, "$2 \\times 4$:\nlike $x^3$", ha="center")
rank.set(
    title="Matrices that are not square keep away",
    xlabel="x (lower rank: 0)",
    ylabel=r"chance that $\rho_2 = N^{1/2} s_2^{1/N} < x$ at time 1",
    xlim=(1e-3, 5),
    ylim=(1e-3, 2),
)
signs.plot(times, exact_negative, color="0.5", linewidth=0.8, label="Gaussian matrices")
for depth, share in negative.items():
    style = {"color": COLOURS[depth], "marker": MARKERS[depth], "markersize": 5}
    signs.plot(times, share, linestyle="", label=f"depth {depth}", **style)
signs.legend(frameon=False, loc=(0.02, 0.6))
signs.set(
    title="The determinant changes sign at odd depths",
    xlabel="time",
    ylabel=r"share of $\det W < 0$, $2 \times 2$ matrices",
    ylim=(-0.02, 0.34),
)
finished(figure, "rank")
plt.show()
