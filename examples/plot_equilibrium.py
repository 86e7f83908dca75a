r"""
Equilibrium: what depth and entropy make of singular values
===========================================================

Under noise and a cost a matrix comes to an equilibrium. The law of its singular values is known:
the deeper the network, the nearer to zero is the small one.

.. image:: images/sphx_glr_plot_equilibrium_001.png
   :alt: Densities of the large and the small singular value at depths 1, 2, 3 and 5
   :class: figures-first
   :target: ../_images/sphx_glr_plot_equilibrium_001.png

.. image:: images/sphx_glr_plot_equilibrium_002.png
   :alt: The mean square of W by depth, with entropy and without, and by the size of a step
   :class: figures-first
   :target: ../_images/sphx_glr_plot_equilibrium_002.png

Noise and a cost E together are the Riemannian Langevin equation. At the inverse temperature
:math:`\beta` its law of equilibrium is (Menon 2024; Menon and Yu 2025)

.. math:: e^{-\beta E + S} \sqrt{\det g} \, dW, \qquad
          S = \tfrac12 \sum_{i<j} \ln \theta_N(s_i, s_j), \qquad
          \theta_N(s, t) = \frac{s^2 - t^2}{s^{2/N} - t^{2/N}}.

The volume of :math:`g^N` and the entropy S of the balanced layers depend on the singular values
alone. With :math:`r = \min(m, n)`, for a cost that does so too, their density is

.. math:: e^{-\beta E} \prod_{i<j} \bigl|(s_i^2 - s_j^2)
          (s_i^{2/N} - s_j^{2/N})\bigr|^{1/2} \prod_i s_i^{(|m - n| + 1) / N - 1}.

This example takes :math:`E = \|W\|^2 / 2` and compares draws at four depths with this law. It also
checks the virial identity, the mean of :math:`\|W\|^2`. A factor c of W multiplies the volume
:math:`\sqrt{\det g} \, dW` by :math:`c^{mn/N}`, and :math:`e^S` by
:math:`c^{(1 - 1/N) r (r - 1) / 2}`. It follows that

.. math:: \beta \langle \|W\|^2 \rangle = \frac{mn}{N}
          + \Bigl(1 - \frac1N\Bigr) \frac{r (r - 1)}{2},

where the last term is that of the entropy.

The guide has a section on :ref:`a cost at a temperature <equilibrium-guide>`, and the theory on
:ref:`Langevin's equation <langevin>` and :ref:`the virial identity <virial>`. The function is
`riemdln.langevin_flow`.

Run it with ``python examples/plot_equilibrium.py``; it writes ``plot_equilibrium_law.png`` and
``plot_equilibrium_mean.png``.
"""

# %%
# Draws
# -----
# 1,500 copies of one 2 x 2 matrix move for four units of time. Metropolis steps accept or reject
# each step of Euler's scheme, so that the law at equilibrium has no error of the step size.
# The law of :math:`\beta^{1/2} W` is the same at all temperatures; here :math:`\beta = 1`.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.special import gammainc
from scipy.stats import kstest

import riemdln

DEPTHS = [1, 2, 3, 5]
rng = np.random.default_rng(0)


def problem_at(m, n, depth):
    """The cost |W|^2 / 2 of each matrix of a stack."""
    manifold = riemdln.FullRank(m, n, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum(W**2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def euclidean_gradient(W):
        return W

    return pymanopt.Problem(manifold, cost, euclidean_gradient=euclidean_gradient)


def equilibrium(m, n, depth, copies, step_size, time=4.0, entropy=True, metropolis=True):
    """Copies of one matrix that come to equilibrium by half of the time."""
    r = min(m, n)
    start = np.zeros((copies, m, n))
    start[:, range(r), range(r)] = np.linspace(1.5, 0.3, r)
    return riemdln.langevin_flow(
        problem_at(m, n, depth),
        start,
        np.linspace(0, time, 9),
        beta=1,
        step_size=step_size,
        entropy=entropy,
        metropolis=metropolis,
        scheme=None if metropolis else "euler",
        vectorized=True,
        rng=rng,
    )


def mean_square(flow):
    """The mean of |W|^2 in the second half of the time, and its standard error."""
    of_copies = np.sum(flow.singular_values[5:] ** 2, axis=-1).mean(axis=0)
    return of_copies.mean(), of_copies.std() / len(of_copies) ** 0.5


def virial(m, n, depth, entropy=True):
    r = min(m, n)
    return m * n / depth + entropy * (1 - 1 / depth) * r * (r - 1) / 2


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_equilibrium_001_2.png"

# %%
# The law of singular values
# --------------------------
# For 2 x 2 matrices write :math:`(s_1, s_2) = R (\cos \varphi, \sin \varphi)`. The density is then
# :math:`e^{-\beta R^2 / 2} R^{d - 1}` times a function of the angle, where d is the right-hand side
# of the virial identity. So the chance of :math:`s_i \le x` is one integral over the angle. With
# :math:`\varphi = u^N` its integrand is bounded.


def distribution(x, depth, i):
    """The chance of s_i <= x at equilibrium, on 2 x 2 matrices with the entropy."""
    ends = np.linspace(0, (np.pi / 4) ** (1 / depth), 301)
    u = (ends[1:] + ends[:-1]) / 2
    s = np.array([np.cos(u**depth), np.sin(u**depth)])
    differences = (s[0] ** 2 - s[1] ** 2) * (s[0] ** (2 / depth) - s[1] ** (2 / depth))
    weights = differences**0.5 * np.prod(s, axis=0) ** (1 / depth - 1) * u ** (depth - 1)
    radii = np.divide.outer(np.atleast_1d(x), s[i])
    return gammainc(virial(2, 2, depth) / 2, radii**2 / 2) @ weights / np.sum(weights)


COPIES = 1500
flows = {depth: equilibrium(2, 2, depth, COPIES, 0.1) for depth in DEPTHS}
scale = COPIES**-0.5
for depth, flow in flows.items():
    draws = flow.singular_values[-1]
    distances = [kstest(draws[:, i], distribution, args=(depth, i))[0] for i in (0, 1)]
    small, exact = np.mean(draws[:, 1] < 0.01), distribution(0.01, depth, 1)[0]
    print(
        f"depth {depth}: distances of s_1, s_2 to the law {distances[0]:.4f}, {distances[1]:.4f}; "
        f"s_2 < 0.01 in {small:.1%} of the copies, by the law in {exact:.1%}; "
        f"{np.mean(flow.acceptance_rates):.0%} of the steps accepted"
    )
    assert max(distances) < 2.2 * scale
print(f"1 / sqrt(K) is {scale:.4f}")

# %%
# The virial identity
# -------------------
# Without the entropy the mean of :math:`\beta \|W\|^2` is :math:`mn / N`: depth N divides it by N
# for every shape. The entropy gives some of it back, for each pair of singular values. Greater
# matrices and depths need shorter steps.

RUNS = {(2, 2): (500, 0.1, 4.0), (2, 4): (400, 0.05, 4.0), (5, 5): (60, 0.01, 2.0)}
means = {(2, 2, depth, True): mean_square(flow) for depth, flow in flows.items()}
for (m, n), (copies, step_size, time) in RUNS.items():
    for depth in (2, 3) if m == 5 else (2, 3, 5):
        for entropy in (True,) if n == 4 else (True, False):
            if (m, n, depth, entropy) not in means:
                means[m, n, depth, entropy] = mean_square(
                    equilibrium(m, n, depth, copies, step_size, time, entropy=entropy)
                )
for (m, n, depth, entropy), (mean, error) in sorted(means.items()):
    exact = virial(m, n, depth, entropy)
    print(
        f"{m} x {n}, depth {depth}, {'with' if entropy else 'without'} entropy: "
        f"{mean:.3f} +- {error:.3f}, by the identity {exact:.3f}"
    )
    assert abs(mean - exact) < 4 * error

# %%
# The size of a step
# ------------------
# Without Metropolis steps Euler's scheme comes to another equilibrium, the farther off the longer
# its steps are. Longer steps cost less, so that there are more copies of them.

STEPS = np.array([0.025, 0.05, 0.1])
exact = virial(2, 2, 2)
euler, adjusted = (
    np.array(
        [
            mean_square(equilibrium(2, 2, 2, round(1.4e4 * h), h, metropolis=metropolis))
            for h in steps
        ]
    )
    for steps, metropolis in ((STEPS, False), (2 * STEPS, True))
)
for h, (mean, error) in zip(STEPS, euler, strict=True):
    print(f"depth 2, Euler's steps of {h}: {mean:.3f} +- {error:.3f}, exact {exact:.3f}")
for h, (mean, error) in zip(2 * STEPS, adjusted, strict=True):
    print(f"depth 2, Metropolis steps of {h}: {mean:.3f} +- {error:.3f}")
    assert abs(mean - exact) < 4 * error
assert euler[-1, 0] - exact > 4 * euler[-1, 1]

# %%
# The figures
# -----------
# They stand at the head of this page. Lines are exact, but for those of the last panel. Bars are
# two standard errors.

COLOURS = {1: "#000000", 2: "#0072B2", 3: "#D55E00", 5: "#009E73"}
MARKERS = {1: "o", 2: "s", 3: "D", 5: "^"}


def finished(figure, title, name):
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    figure.suptitle(title, fontsize=12)
    figure.savefig(f"plot_equilibrium_{name}.png", dpi=150)


figure, (first, second) = plt.subplots(1, 2, figsize=(9, 4.9), layout="constrained")
for i, panel, edges in ((0, first, np.linspace(-2, 1, 31)), (1, second, np.linspace(-6, 1, 36))):
    fine = np.linspace(edges[0], edges[-1], 301)
    for depth, flow in flows.items():
        colour, marker = COLOURS[depth], MARKERS[depth]
        density = np.diff(distribution(10**fine, depth, i)) / np.diff(fine)
        panel.plot((fine[1:] + fine[:-1]) / 2, density, color=colour, linewidth=1.2)
        counts = np.histogram(np.log10(flow.singular_values[-1, :, i]), edges)[0]
        height = counts / COPIES / np.diff(edges)
        style = {"color": colour, "marker": marker, "markersize": 4, "label": f"depth {depth}"}
        middles = (edges[1:] + edges[:-1]) / 2
        panel.plot(middles[counts > 0], height[counts > 0], linestyle="", **style)
second.plot([], [], color="0.5", linewidth=1.2, label="exact law")
first.set(
    title="Large singular value $s_1$",
    xlabel=r"$\log_{10} s_1$",
    ylabel=r"density of $\log_{10} s_1$",
    xlim=(-2, 1),
    ylim=(0, None),
)
second.set(
    title="Small one: the deeper, the nearer to 0",
    xlabel=r"$\log_{10} s_2$",
    ylabel=r"density of $\log_{10} s_2$",
    xlim=(-6, 1),
    ylim=(0, None),
)
second.legend(frameon=False, loc="upper left")
figure.legend(
    handles=[],
    title=(
        r"Law: density $e^{-E + S} \sqrt{\det g^N}$ with the cost $E = \|W\|^2 / 2$. "
        "S: log-volume of the balanced layers over $W$.\n"
        "$g^N$: the metric that $N$ balanced layers give their product $W$ (depth $N$)."
    ),
    frameon=False,
    loc="outside lower center",
)
finished(
    figure,
    "The deeper the network, the nearer to zero is the small singular value\n"
    rf"{COPIES:,} draws of $2 \times 2$ matrices by Langevin's equation with Metropolis steps",
    "law",
)

SHAPES = {(2, 2): "#CC79A7", (2, 4): "#56B4E9", (5, 5): "#E69F00"}
figure, (identity, sizes) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
inverse = np.array([0.0, 1.0])
for (m, n), colour in SHAPES.items():
    ends = [virial(m, n, depth) / (m * n) for depth in (np.inf, 1)]
    identity.plot(inverse, ends, color=colour, linewidth=1.2)
identity.plot(inverse, inverse, "--", color="0.5", linewidth=1.2)
for (m, n, depth, entropy), (mean, error) in means.items():
    identity.errorbar(
        1 / depth,
        mean / (m * n),
        2 * error / (m * n),
        fmt="o" if entropy else "s",
        markersize=5,
        markerfacecolor=None if entropy else "white",
        color=SHAPES[m, n],
        elinewidth=1,
    )
for (m, n), colour in SHAPES.items():
    identity.plot([], [], "o-", color=colour, markersize=5, label=rf"${m} \times {n}$")
identity.plot([], [], "s--", color="0.5", markersize=5, mfc="white", label="without entropy")

for steps, results, colour, name, height in (
    (STEPS, euler, "0.4", "Euler's steps", 22),
    (2 * STEPS, adjusted, SHAPES[2, 2], "Metropolis steps", 20),
):
    mean, error = results.T / exact
    sizes.errorbar(steps, mean, 2 * error, fmt="o-", color=colour, markersize=5)
    sizes.annotate(
        name,
        (steps[-1], mean[-1]),
        (-4, height),
        ha="right",
        textcoords="offset points",
        color=colour,
    )
sizes.axhline(1, color="0.5", linewidth=0.8, zorder=0)

identity.set(
    title="It falls with depth, less so with entropy",
    xlabel="1 / depth (0: infinite depth)",
    ylabel=r"mean of $\|W\|^2$ / number of entries",
    xlim=(0, 1.05),
    ylim=(0, 1.1),
)
sizes.set(
    title=r"Metropolis steps have no error ($2 \times 2$, depth 2)",
    xlabel="size of a step in time",
    ylabel=r"mean of $\|W\|^2$ / exact mean",
    xscale="log",
    ylim=(0.93, 1.22),
)
sizes.set_xticks([0.025, 0.05, 0.1, 0.2], ["0.025", "0.05", "0.1", "0.2"])
sizes.minorticks_off()
identity.legend(frameon=False, loc="upper left")
finished(
    figure,
    r"The mean of $\|W\|^2$ at equilibrium is known, and draws agree with it" + "\n"
    r"Draws with the cost $\|W\|^2 / 2$, bars: two standard errors; on the left lines are exact",
    "mean",
)
plt.show()
