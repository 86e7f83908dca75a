r"""
The shape of the metric: curved both ways, away from lower rank
===============================================================

At every depth above 1 the space of matrices under :math:`g^N` is curved, positively in some planes
and negatively in others. Its shortest paths keep away from lower rank, and straight lines do not.

.. image:: images/sphx_glr_plot_shape_001.png
   :alt: Curvature: its range at 2 x 2 matrices, near lower rank, of random planes; two geodesics
   :class: figures-first
   :target: ../_images/sphx_glr_plot_shape_001.png

.. image:: images/sphx_glr_plot_shape_002.png
   :alt: The smallest singular value along geodesics, by depth; the way from I to a rotation
   :class: figures-first
   :target: ../_images/sphx_glr_plot_shape_002.png

.. image:: images/sphx_glr_plot_shape_003.png
   :alt: Maps of twelve matrices by their distances, Euclidean and at infinite depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_shape_003.png

At finite depths curvature has no bound where two singular values vanish. The deeper the network,
the more it matters how small a small singular value is.

The guide tells how to ask for :doc:`geodesics, distances and curvature </guide/geodesics>`, and the
theory has the :ref:`equations of geodesics <geodesics>` and :ref:`of curvature <curvature>`. The
functions are `riemdln.geodesics.geodesic`, `riemdln.geodesics.geodesic_between`,
`riemdln.geodesics.pairwise_distances` and `riemdln.geodesics.sectional_curvature`.

Run it with ``python examples/plot_shape.py``; it writes ``plot_shape_curvature.png``,
``plot_shape_geodesics.png`` and ``plot_shape_distances.png``. At infinite depth the metric is the
limit of :math:`N g^N`.
"""

# %%
# Planes of two singular values
# -----------------------------
# The curvature of a plane is positive where geodesics in it come together, and negative where they
# part. At :math:`W = \mathrm{diag}(s)` the plane of two singular values is flat. Each vector u in
# it also spans a plane with each of two turns: :math:`E_{12} + E_{21}` turns the left and the right
# singular vectors together, and :math:`E_{12} - E_{21}` turns them apart. The curvature of the
# plane of u and a turn is a quadratic form of the unit vector u, so three vectors determine it.

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import sqrtm

import riemdln
from riemdln.geodesics import (
    LowerRankError,
    geodesic,
    geodesic_between,
    pairwise_distances,
    sectional_curvature,
)

DEPTHS = [2, 3, np.inf]
metrics = {depth: riemdln.DeepLinearMetric(depth) for depth in (1, *DEPTHS)}
rng = np.random.default_rng(0)


def unit_matrix(n, i, j):
    return np.outer(np.eye(n)[i], np.eye(n)[j])


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def extremes(metric, s):
    """The least and the largest curvature in planes of two singular values and their turns."""
    n = s.shape[-1]
    W = s[..., None] * np.eye(n)
    planes = []
    for i, j in combinations(range(n), 2):
        first, second = (metric.root(W, unit_matrix(n, k, k) + 0 * W) for k in (i, j))
        turns = [unit_matrix(n, i, j) + sign * unit_matrix(n, j, i) for sign in (1, -1)]
        planes += [(u, turn) for turn in turns for u in (first, second, first + second)]
        planes += [(turns[0] + 0 * W, turns[1])]
    X, Y = (np.stack(vectors) for vectors in zip(*planes, strict=True))
    K = sectional_curvature(metric, W, X, Y[:, None]).reshape(-1, 7, len(s))
    a, b, middle = np.moveaxis(K[:, :6].reshape(-1, 3, len(s)), 1, 0)
    spread = np.hypot((a - b) / 2, middle - (a + b) / 2)
    values = np.concatenate([K[:, 6], (a + b) / 2 - spread, (a + b) / 2 + spread])
    return np.min(values, axis=0), np.max(values, axis=0)


def random_planes(metric, W):
    """The curvature of the plane of two isotropic random vectors at each of some points."""
    return sectional_curvature(
        metric, W, metric.random_tangent(W, rng), metric.random_tangent(W, rng)
    )


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_shape_002_1.png"

# %%
# On 2 x 2 matrices these planes are the extreme ones: no random plane lies beyond. At depth 2
# curvature is from :math:`-k` to :math:`3 k` with :math:`k = 1 / (2 s_1 + 2 s_2)`. At infinite
# depth it is from -1/6 to 1/2 where singular values are equal, and less where they differ.

ratios = np.geomspace(1, 1e-3, 15)
spectra = np.stack([np.ones_like(ratios), ratios], axis=-1)
bounds = {depth: extremes(metrics[depth], spectra) for depth in DEPTHS}
for depth, (least, largest) in bounds.items():
    tried = random_planes(metrics[depth], np.repeat(spectra[:, None] * np.eye(2), 8, axis=0))
    tried = tried.reshape(len(ratios), -1)
    print(
        f"2 x 2, depth {depth}, s_1 = 1: curvature from {least.min():.4f} to {largest.max():.4f}; "
        f"as s_2 goes to 0 from {least[-1]:.4f} to {largest[-1]:.4f}"
    )
    assert np.all(least < 0)
    assert np.all(largest > 0)
    assert np.all(least - 1e-9 < tried.min(axis=1))
    assert np.all(tried.max(axis=1) < largest + 1e-9)
scale = 1 / (2 + 2 * ratios)
assert np.allclose(bounds[2], [-scale, 3 * scale])
assert np.allclose(np.array(bounds[np.inf])[:, 0], [-1 / 6, 1 / 2])
assert np.all(np.diff(bounds[np.inf][0]) > 0)
assert np.all(np.diff(bounds[np.inf][1]) < 0)

# %%
# Near lower rank
# ---------------
# With one small singular value curvature in these planes stays bounded. With two that are both
# :math:`\varepsilon` the largest is :math:`(N^2 - 1) / (2 N \varepsilon^{2/N})`. It grows without
# bound at every finite depth, the slower the deeper. At infinite depth it stays 1/2.

small = np.geomspace(1, 1e-4, 9)
ONE, TWO = np.array([0, 0, 1]), np.array([0, 1, 1])
near = {
    (depth, count): extremes(metrics[depth], small[:, None] ** exponents)[1]
    for depth in DEPTHS
    for count, exponents in ((1, ONE), (2, TWO))
}
for depth in DEPTHS:
    N = depth
    law = 0.5 + 0 * small if np.isinf(N) else (N**2 - 1) / (2 * N * small ** (2 / N))
    print(
        f"3 x 3, depth {depth}: one singular value of 1e-4 has curvature up to "
        f"{near[depth, 1][-1]:.3f}, two up to {near[depth, 2][-1]:.6g}"
    )
    assert np.allclose(near[depth, 2], law)
    assert near[depth, 1].max() < 2

# %%
# Random planes
# -------------
# Take the plane of two random vectors at a random matrix. About half of these planes are negatively
# curved at 2 x 2 matrices, and a third at 3 x 3 matrices, at every depth.

planes = {}
for n, count in ((2, 300), (3, 150)):
    W = rng.standard_normal((count, n, n))
    W /= np.linalg.norm(W, ord=2, axis=(1, 2))[:, None, None]  # s_1 = 1
    for depth in DEPTHS:
        planes[n, depth] = np.sort(random_planes(metrics[depth], W))
        share = np.mean(planes[n, depth] < 0)
        print(f"{n} x {n}, depth {depth}: {share:.0%} of random planes have negative curvature")
        assert abs(share - {2: 0.49, 3: 0.36}[n]) < 0.12

# %%
# What the sign means
# -------------------
# Two geodesics that leave a point at a small angle are apart, in proportion to the time t,
# by :math:`1 - K t^2 / 6 + O(t^3)`, where K is the curvature of their plane.

ANGLE = 1e-4
metric, W = metrics[3], np.diag([1.0, 0.5])
first, second = (metric.root(W, unit_matrix(2, k, k)) for k in (0, 1))
together, apart = (unit_matrix(2, 0, 1) + sign * unit_matrix(2, 1, 0) for sign in (1, -1))
times = np.linspace(0, 1.2, 25)
pairs = {}
for X, Y in ((together, second), (second, first), (together, apart)):
    X = X / metric.inner(W, X, X) ** 0.5
    Y = Y / metric.inner(W, Y, Y) ** 0.5
    K = sectional_curvature(metric, W, X, Y)
    tilted = np.cos(ANGLE) * X + np.sin(ANGLE) * Y
    one, other = (geodesic(metric, W, V, times, rtol=1e-12).points for V in (X, tilted))
    gaps = metric.inner(one, other - one, other - one) ** 0.5
    pairs[float(K)] = gaps[1:] / (ANGLE * times[1:])
    print(f"depth 3, curvature {K:+.3f}: after {times[-1]:.1f} apart by {pairs[K][-1]:.3f} times t")
    early = times[1:4]
    assert np.allclose((1 - pairs[K][:3]) * 6 / early**2, K, atol=0.1 * max(1, abs(K)))
assert sorted(np.sign(np.round(list(pairs), 9))) == [-1, 0, 1]

# %%
# Shortest paths
# --------------
# Between 3 x 3 matrices with Gaussian entries and determinants of the same sign, most straight
# lines come near lower rank, or pass through it: there the determinant changes its sign. On the
# geodesics of :math:`g^N` the smallest singular value hardly falls below that of its smaller end,
# and at infinite depth not at all.

RANDOM_PAIRS = 10
moments = np.linspace(0, 1, 51)
ends = rng.standard_normal((3 * RANDOM_PAIRS, 2, 3, 3))
ends = ends[np.prod(np.linalg.det(ends), axis=1) > 0][:RANDOM_PAIRS]
smallest = {
    depth: np.array(
        [
            np.linalg.svd(geodesic_between(metric, *pair, moments).points, compute_uv=False)[:, 2]
            for pair in ends
        ]
    )
    for depth, metric in metrics.items()
}
dips = {
    depth: np.sort(values.min(axis=1) / np.minimum(values[:, 0], values[:, -1]))
    for depth, values in smallest.items()
}
for depth, dip in dips.items():
    print(
        f"depth {depth}: on the way s_3 falls to {dip[0]:.3f} of its smaller end for the worst "
        f"of {RANDOM_PAIRS} pairs, below half of it for {np.sum(dip < 0.5)}"
    )
    assert (np.sum(dip < 0.5) > RANDOM_PAIRS / 2) if depth == 1 else np.all(dip > 0.7)
assert np.all(dips[np.inf] > 1 - 1e-9)
lines = ends[:, :1] + np.linspace(0, 1, 1001)[:, None, None] * (ends[:, 1:] - ends[:, :1])
determinants = np.linalg.det(lines)
through = np.sum(np.any(determinants * determinants[:, :1] < 0, axis=1))
print(f"{through} of the straight lines pass through lower rank")
assert through == np.sum(dips[1] < 0.1) == 3

# %%
# Turns
# -----
# The rotations :math:`c R(\varphi)` of the plane, c > 0, are a flat cone of the total angle
# :math:`2 \pi / N`. So on the way from the identity to :math:`R(\varphi)` singular values fall to
# :math:`\cos(\varphi / 2N)^N`: for half a turn to 0 at depth 1, to 1/2 at depth 2, and not at all
# at infinite depth.

angles = np.array([0.25, 0.5, 0.75, 0.95]) * np.pi
middles = {}
for depth, metric in metrics.items():
    middles[depth] = np.array(
        [
            np.linalg.svd(
                geodesic_between(metric, np.eye(2), rotation(a), [0.5]).points[0],
                compute_uv=False,
            )
            for a in angles
        ]
    )


def cone(depth, angle):
    return 1 + 0 * angle if np.isinf(depth) else np.cos(angle / (2 * depth)) ** depth


for depth, values in middles.items():
    assert np.allclose(values, cone(depth, angles)[:, None], atol=1e-7)
assert np.all(np.diff([values[:, 0] for values in middles.values()], axis=0) > 0)

# %%
# Where geodesics end
# -------------------
# A geodesic that goes on can come to lower rank in finite time, where :math:`g^N` ends. At depth 2
# some are known in closed form: from a positive definite W, with :math:`C C^T = C^T C`, that of the
# velocity :math:`C W + W C` is
#
# .. math:: W(t) = (I + t C) \, W \, (I + t C),
#
# the product of two layers that move on straight lines and stay balanced: horizontal lines, which
# the map from layers to matrices takes to geodesics (Chen 2025). It ends where :math:`I + t C` is
# singular. At infinite depth geodesics go on.

W = np.array([[2.0, 0.5, 0.0], [0.5, 1.5, 0.5], [0.0, 0.5, 1.0]])
C = np.array([[0.2, -0.6, 0.0], [0.6, 0.2, 0.0], [0.0, 0.0, -0.5]])
END = 2.0
followed = np.linspace(0, 3, 61)
before = followed[followed < END - 0.04]
lines = np.eye(3) + np.multiply.outer(before, C)
velocity = C @ W + W @ C
points = geodesic(metrics[2], W, velocity, before).points
on = {2: (before, points)}
assert np.allclose(points, lines @ W @ lines)
root = sqrtm(W)
assert all(riemdln.imbalance([root @ line, line @ root]) < 1e-12 for line in lines)
ended = np.inf
try:
    geodesic(metrics[2], W, velocity, [0.0, 3.0])
except LowerRankError as error:
    ended = error.time
print(f"depth 2: the geodesic ends at time {ended:.9f}; I + t C is singular at {END}")
assert abs(ended - END) < 1e-6
on[np.inf] = followed, geodesic(metrics[np.inf], W, velocity, followed).points
assert np.linalg.svd(on[np.inf][1], compute_uv=False)[:, -1].min() > 0

# %%
# A map of distances
# ------------------
# Twelve 2 x 2 matrices have the singular values 1 and :math:`s_2` in three frames. Multidimensional
# scaling draws points in the plane whose distances approximate those of the matrices. The
# Euclidean distance tells frames apart, and hardly the values of :math:`s_2`. That of infinite
# depth is at least :math:`|\ln s_2 - \ln s_2'|`, so lower rank is infinitely far, and the first
# axis of its map is :math:`\ln s_2`.

FRAMES = np.array([[-0.6, -0.3], [0.0, 0.6], [0.5, -0.2]])
VALUES = np.array([0.5, 0.05, 0.005, 0.0005])


matrices = np.array(
    [rotation(a) @ np.diag([1, s]) @ rotation(b).T for s in VALUES for a, b in FRAMES]
)
logs = np.log(np.repeat(VALUES, len(FRAMES)))


def classical_map(distances):
    """Coordinates in the plane by the two largest eigenvalues of the centred matrix."""
    centre = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-centre @ distances**2 @ centre / 2)
    return vectors[:, :-3:-1] * np.sqrt(values[:-3:-1])


maps, correlations = {}, {}
for depth in (1, np.inf):
    distances, reasons = pairwise_distances(metrics[depth], matrices)
    assert not reasons
    maps[depth] = classical_map(distances)
    correlations[depth] = abs(np.corrcoef(maps[depth][:, 0], logs)[0, 1])
    print(f"depth {depth}: the first axis correlates with ln s_2 by {correlations[depth]:.3f}")
assert np.all(distances > np.abs(np.subtract.outer(logs, logs)) - 1e-6)
assert correlations[1] < 0.3
assert correlations[np.inf] > 0.99

# %%
# The figures
# -----------
# They stand at the head of this page.

COLOURS = {1: "#000000", 2: "#0072B2", 3: "#D55E00", np.inf: "#CC79A7"}
NAMES = {1: "depth 1: straight line", 2: "depth 2", 3: "depth 3", np.inf: r"depth $\infty$"}


def finished(figure, title, name):
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    figure.suptitle(title, fontsize=12)
    figure.savefig(f"plot_shape_{name}.png", dpi=150)


figure, ((both, rank), (share, apart_by)) = plt.subplots(
    2, 2, figsize=(9, 7.6), layout="constrained"
)
for depth, (least, largest) in bounds.items():
    style = {"color": COLOURS[depth]}
    both.semilogx(ratios, largest, label=NAMES[depth], **style)
    both.semilogx(ratios, least, **style)
    both.fill_between(ratios, least, largest, alpha=0.12, linewidth=0, **style)
    rank.loglog(small, near[depth, 2], "-", **style)
    rank.loglog(small, near[depth, 1], ":", **style)
    for n, line in ((2, "-"), (3, "--")):
        values = planes[n, depth]
        share.plot(values, (np.arange(len(values)) + 0.5) / len(values), line, **style)
OFFSETS = {1: (-12, -5), 0: (0, 5), -1: (-30, -3)}
for K, gaps in pairs.items():
    apart_by.plot(times[1:], gaps, color="0.2")
    name = f"$K = {K:.2f}$" if abs(K) > 1e-9 else "$K = 0$"
    apart_by.annotate(
        name,
        (times[-1], gaps[-1]),
        OFFSETS[np.sign(round(K, 9))],
        textcoords="offset points",
        ha="right",
    )
    apart_by.plot(times[1:13], 1 - K * times[1:13] ** 2 / 6, ":", color="0.2")
both.set(
    title="Each matrix has planes of both signs",
    xlabel="small singular value $s_2$ of a $2 \\times 2$ matrix, $s_1 = 1$",
    ylabel="least and largest curvature",
)
both.axhline(0, color="0.5", linewidth=0.8, zorder=0)
both.legend(frameon=False)
rank.set(
    title="Two small singular values, not one,\nmake curvature large at finite depth",
    xlabel=r"$\varepsilon$, for a $3 \times 3$ matrix",
    ylabel="largest curvature",
)
rank.text(
    0.04,
    0.94,
    "solid: singular values $1, \\varepsilon, \\varepsilon$\n"
    "dotted: singular values $1, 1, \\varepsilon$",
    transform=rank.transAxes,
    va="top",
)
share.set(
    title="About a half or a third of random planes\nhave negative curvature",
    xlabel="curvature of a plane of two random vectors",
    ylabel="share of planes with less curvature",
    xlim=(-1, 1.5),
)
share.text(
    0.04,
    0.94,
    "solid: at random\n$2 \\times 2$ matrices\ndashed: $3 \\times 3$",
    transform=share.transAxes,
    va="top",
)
share.axvline(0, color="0.5", linewidth=0.8, zorder=0)
apart_by.set(
    title="Two geodesics come together where\nthe curvature K > 0 (depth 3)",
    xlabel="time t since they left one matrix at a small angle",
    ylabel=r"distance / (angle $\times$ t)",
)
apart_by.text(0.04, 0.06, "dotted: $1 - K t^2 / 6$", transform=apart_by.transAxes)
both.invert_xaxis()
rank.invert_xaxis()
finished(
    figure,
    "The space of matrices is curved both ways, at every depth above 1\n"
    "Sectional curvature of planes of two tangent vectors at a matrix, under $g^N$,\n"
    "the metric that N balanced layers give their product $W$ (depth N)",
    "curvature",
)

figure, ((way, worst), (turned, end)) = plt.subplots(2, 2, figsize=(9, 7.6), layout="constrained")
shown = np.argmin(smallest[1].min(axis=1))
fine = np.linspace(0, np.pi, 101)
for depth, colour in COLOURS.items():
    way.semilogy(moments, smallest[depth][shown], color=colour, label=NAMES[depth])
    worst.semilogy(np.arange(1, RANDOM_PAIRS + 1), dips[depth], "o-", color=colour, markersize=4)
    turned.plot(fine / np.pi, cone(depth, fine), color=colour)
    turned.plot(angles / np.pi, middles[depth][:, 0], "o", color=colour, markersize=4)
for depth, (t, points) in on.items():
    s = np.linalg.svd(points, compute_uv=False)
    end.plot(t, s[:, -1], color=COLOURS[depth])
end.plot(END, 0, "x", color=COLOURS[2])
end.annotate("lower rank", (END, 0), (8, -4), textcoords="offset points")
way.legend(frameon=False, loc=(0.3, 0.02))
way.set(
    title="Between two matrices: depth 1 passes\n$s_3 = 0$ twice, deeper keep away",
    xlabel="time along the geodesic",
    ylabel="smallest singular value $s_3$",
)
worst.annotate(r"depths 2, 3, $\infty$", (1, 1), (0, -16), textcoords="offset points")
worst.annotate(
    f"depth 1: {through} lines pass\nthrough lower rank ($s_3 = 0$)",
    (through, dips[1][through - 1]),
    (12, -14),
    textcoords="offset points",
)
worst.set(
    title=f"The same for {RANDOM_PAIRS} such pairs",
    xlabel="number of the pair, the worst first",
    ylabel="least $s_3$ / $s_3$ of the smaller end",
)
turned.text(0.04, 0.06, r"lines: $\cos(\varphi / 2N)^N$", transform=turned.transAxes)
turned.set(
    title="From I to a rotation matrices shrink\nhalf-way, the deeper the less",
    xlabel=r"angle $\varphi / \pi$ of the rotation",
    ylabel=r"both singular values half-way ($2 \times 2$)",
)
end.set(
    title="One geodesic that goes on: it ends at\ndepth 2, but not at infinite depth",
    xlabel="time along the geodesic",
    ylabel=r"smallest singular value ($3 \times 3$)",
)
finished(
    figure,
    "Shortest paths under $g^N$ keep away from lower rank; a geodesic that goes on can end there\n"
    "Above: pairs of Gaussian $3 \\times 3$ matrices with determinants of one sign\n"
    "$g^N$: the metric that N balanced layers give their product $W$ (depth N)",
    "geodesics",
)

figure, panels = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained")
SHADES = ["#440154", "#31688e", "#35b779", "#dfa60c"]
for panel, places in zip(panels, maps.values(), strict=True):
    places = places * np.sign(np.sum(places * logs[:, None], axis=0))
    for i, (value, shade) in enumerate(zip(VALUES, SHADES, strict=True)):
        for k, marker in enumerate("os^"):
            x, y = places[i * len(FRAMES) + k]
            label = None if k else f"$s_2 = {value:g}$"
            panel.plot(x, y, marker, color=shade, label=label, markersize=12 - 2 * i)
    panel.set_aspect("equal", adjustable="datalim")
    panel.set(xlabel="first coordinate of the map", ylabel="second coordinate")
panels[0].set_title("Euclidean distance: it tells shapes apart")
panels[1].set_title(r"Infinite depth: $\ln s_2$ is on the first axis")
panels[0].text(0.04, 0.06, "shapes: singular vectors", transform=panels[0].transAxes)
panels[0].legend(loc=(0.36, 0.4))
finished(
    figure,
    "At infinite depth it matters how small a singular value is\n"
    "Maps of twelve $2 \\times 2$ matrices, $s_1 = 1$: "
    "distances on the map approximate those of the matrices",
    "distances",
)
plt.show()
