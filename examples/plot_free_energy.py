r"""
Does entropy repel singular values?
===================================

Motion up the entropy drives singular values apart, but in minimizers of the free energy they are
drawn together. At equilibrium they repel each other, with the entropy and without.

.. image:: images/sphx_glr_plot_free_energy_001.png
   :alt: Motion up the entropy: the gap of two singular values grows, their ratio by depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_free_energy_001.png

.. image:: images/sphx_glr_plot_free_energy_002.png
   :alt: Minimizers of the free energy: the ratio of two singular values falls with temperature
   :class: figures-first
   :target: ../_images/sphx_glr_plot_free_energy_002.png

.. image:: images/sphx_glr_plot_free_energy_003.png
   :alt: Equilibrium: density of the ratio with and without entropy; draws and the minimizer
   :class: figures-first
   :target: ../_images/sphx_glr_plot_free_energy_003.png

All balanced layers with the product W form an orbit. The logarithm of its volume is the entropy of
W (Menon and Yu 2025), for square matrices and up to a constant

.. math::

    S_N(W) = \tfrac12 \sum_{i<j} \ln \theta_N(s_i, s_j), \qquad
    \theta_N(s, t) = \frac{s^2 - t^2}{s^{2/N} - t^{2/N}}.

At the temperature :math:`1 / \beta`, noise on the layers moves W down the free energy
:math:`F = E - S / \beta` of a cost E. The lecture notes of Menon (2024) speak of the entropy as a
repulsion of singular values. Chen, Kotwal and Menon (2025, arXiv:2512.06137) find that where E
depends symmetrically on the singular values the minimizers of F are one orbit, and that there is no
repulsion. Both are right, since they ask different things:

- the *motion* up the entropy, under :math:`g^N`, drives two singular values apart: their gap grows,
  and above depth 2 their ratio too;
- in the *minimizers* of F they are drawn together: the ratio falls, and above depth 2 the gap too;
- the *stationary law* of the noisy equation has a repulsion, but it comes from the volume of
  matrices with given singular values and is there without the entropy too.

This example measures the three, each beside a computation over the two singular values alone.

The guide has a section on :ref:`entropy and free energy <entropy-guide>`,
and the theory on :ref:`volume and entropy <volume>`. The functions are `riemdln.free_energy` and
`riemdln.langevin_flow`.

Run it with ``python examples/plot_free_energy.py``; it writes ``plot_free_energy_motion.png``,
``plot_free_energy_minimizers.png`` and ``plot_free_energy_equilibrium.png``.
"""

# %%
# The slope of the entropy
# ------------------------
# With :math:`x_{ij} = \ln (s_i^2 / s_j^2)`,
#
# .. math::
#
#     \frac{\partial S_N}{\partial s_i} = \frac{1}{s_i} \sum_{j \ne i} k_N(x_{ij}), \qquad
#     k_N(x) = \frac{1}{1 - e^{-x}} - \frac{1}{N (1 - e^{-x/N})}.
#
# At infinite depth the last term is 1 / x. Each :math:`k_N` is positive: the entropy pushes every
# singular value up. Whether it drives them apart depends on which of them it pushes up more.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.integrate import simpson, solve_ivp
from scipy.optimize import root

import riemdln

DEPTHS = [1.5, 2, 3, np.inf]
rng = np.random.default_rng(0)
left, right = np.linalg.qr(rng.standard_normal((2, 2, 2)))[0]


def manifold_at(depth):
    return riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth))


def slopes(depth, s):
    """The derivatives of the entropy of 2 x 2 matrices in s_1 and s_2."""
    x = 2 * np.log(s / s[::-1])
    deep = 1 / x if np.isinf(depth) else -1 / (depth * np.expm1(-x / depth))
    return (-1 / np.expm1(-x) - deep) / s


def speed_factors(depth, s):
    """theta(s_i, s_i): how much faster singular values move than a Euclidean gradient says."""
    return s**2 if np.isinf(depth) else depth * s ** (2 - 2 / depth)


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_free_energy_003_2.png"

# %%
# The motion up the entropy
# -------------------------
# Under :math:`g^N` it is :math:`\dot s_i = \theta_N(s_i, s_i) \, \partial S_N / \partial s_i`, the
# flow of F for E = 0. From the singular values 2 and 1/2 the gap :math:`s_1 - s_2` grows at every
# depth. The ratio :math:`s_1 / s_2` falls below depth 2, stays at depth 2 and grows at greater
# depths. The flow of the matrix ends where that of the two numbers does. Each depth has a speed of
# its own, so the figure shows all over the entropy that they have gained.

START = np.array([2.0, 0.5])
LAST_TIMES = {1.5: 300.0, 2: 26.0, 3: 4.0, np.inf: 2.0}
motions = {}
for depth in DEPTHS:
    times = LAST_TIMES[depth] * np.linspace(0, 1, 80) ** 2
    up = riemdln.free_energy(manifold_at(depth), beta=1.0)
    motions[depth] = flow = riemdln.gradient_flow(up, left * START @ right.T, times, rtol=1e-9)
    numbers = solve_ivp(
        lambda time, s, depth=depth: speed_factors(depth, s) * slopes(depth, s),
        (0, times[-1]),
        START,
        rtol=1e-10,
        atol=1e-12,
    )
    first, second = flow.singular_values.T
    error = np.max(np.abs(flow.singular_values[-1] / numbers.y[:, -1] - 1))
    print(
        f"depth {depth}, up the entropy by {flow.costs[0] - flow.costs[-1]:.2f}: gap from 1.5 to "
        f"{first[-1] - second[-1]:.3g}, ratio from 4 to {first[-1] / second[-1]:.4g}; the two "
        f"numbers alone agree to {error:.0e}"
    )
    assert error < 1e-6
    assert np.all(np.diff(first - second) > 0)
    turns = np.diff(np.log(first / second))
    if depth == 2:
        assert np.abs(turns).max() < 1e-7
    else:
        assert np.all(turns * (depth - 2) > 0)

# %%
# Minimizers of the free energy
# -----------------------------
# Now :math:`E = \|W - T\|^2 / 2`, where T has the singular values 2 and 0.1. Trust regions find the
# minimizers of F. They have the singular vectors of T, and
#
# .. math:: s_i = t_i + \frac{1}{\beta} \frac{\partial S_N}{\partial s_i}.
#
# This equation has no metric, and so no factor :math:`\theta_N(s_i, s_i)`: for its size, the small
# singular value is pushed up more. The ratio falls at every depth; the gap grows below
# depth 2, is kept at depth 2 and falls at greater depths.

TARGET = np.array([2.0, 0.1])
TEMPERATURES = np.array([0.01, 0.1, 0.25, 0.5, 0.75, 1.0])
FINE = np.geomspace(1e-4, 1, 200)
optimizer = pymanopt.optimizers.TrustRegions(min_gradient_norm=1e-10, verbosity=0)


def problem_at(depth, target):
    """Half the squared distance from a target with the given singular values."""
    manifold = manifold_at(depth)
    T = left * target @ right.T

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum((W - T) ** 2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def euclidean_gradient(W):
        return W - T

    @pymanopt.function.numpy(manifold)
    def euclidean_hessian(W, X):
        return X

    return pymanopt.Problem(
        manifold, cost, euclidean_gradient=euclidean_gradient, euclidean_hessian=euclidean_hessian
    )


def minimizer(depth, target, temperature):
    """The singular values of the minimizer of F that trust regions find."""
    F = riemdln.free_energy(problem_at(depth, target), 1 / temperature)
    # Another determinant's sign than the target's has a minimizer of its own.
    W = optimizer.run(F, initial_point=left @ [[1.0, -0.5], [0.5, 0.5]] @ right.T).point
    return np.linalg.svd(W, compute_uv=False)


def computed(depth, temperatures):
    """The solutions of the equation above, at rising temperatures."""
    rows, s = [], TARGET
    for temperature in temperatures:
        s = root(lambda s, T=temperature: s - TARGET - T * slopes(depth, s), s, tol=1e-13).x
        rows.append(s)
    return np.array(rows)


minimizers, lines = {}, {}
for depth in DEPTHS:
    minimizers[depth] = np.array([minimizer(depth, TARGET, t) for t in TEMPERATURES])
    lines[depth] = computed(depth, FINE)
    error = np.abs(minimizers[depth] - computed(depth, TEMPERATURES)).max()
    first, second = minimizers[depth].T
    print(
        f"depth {depth}, the minimizer at temperature 1: gap from 1.9 to "
        f"{first[-1] - second[-1]:.3f}, ratio from 20 to {first[-1] / second[-1]:.3g}; the "
        f"equation agrees to {error:.0e}"
    )
    assert error < 1e-8
    assert np.all(np.diff(first / second, prepend=20) < 0)
    widened = first - second - 1.9
    if depth == 2:
        assert np.abs(widened).max() < 1e-8
    else:
        assert np.all(widened * (2 - depth) > 0)

# %%
# The stationary law
# ------------------
# The last energy is symmetric, :math:`E = \|W\|^2 / 2`, at depth 3. The minimizers of F are the
# matrices with :math:`s_1 = s_2 = ((1 - 1/N) / 2 \beta)^{1/2}`: one orbit and no repulsion. But
# the noisy equation is never there. Its stationary law is
# :math:`e^{-\beta E + S} \sqrt{\det g} \, dW`, in the singular values
# :math:`\rho_i = s_i^{1/N}` of the layers
#
# .. math::
#
#     e^{-\beta (\rho_1^{2N} + \rho_2^{2N}) / 2} \;
#     \left(\frac{\rho_1^{2N} - \rho_2^{2N}}{\rho_1^2 - \rho_2^2}\right)^{1/2}
#     (\rho_1^2 - \rho_2^2) \, d\rho_1 \, d\rho_2.
#
# The middle factor is :math:`e^S`, which is not zero where :math:`\rho_1 = \rho_2`. The last is the
# volume of the matrices with these singular values, and zero there. So the density of
# :math:`q = \rho_2 / \rho_1` is zero at q = 1, with the entropy and without. It is the same at all
# temperatures:
#
# .. math::
#
#     p(q) \propto \frac{1 - q^2}{(1 + q^{2N})^{2/N}}
#     \left[\frac{1 - q^{2N}}{1 - q^2} \, (1 + q^{2N})^{-(N-1)/N}\right]^{1/2},
#
# where the factor in brackets is that of the entropy. It grows with q: here too the entropy draws
# singular values together, though little. Metropolis steps of the equation draw from both laws.

DEPTH, BETA = 3, 2.0
COPIES, ROUNDS = 1500, 12
symmetric = problem_at(DEPTH, np.zeros(2))
grid = np.linspace(0, 1, 1001)


def density(q, entropy):
    """The density of q = (s_2 / s_1)^{1 / N}, but for a factor."""
    N = DEPTH
    of_volume = (1 - q**2) / (1 + q ** (2 * N)) ** (2 / N)
    geometric_sum = sum(q ** (2 * j) for j in range(N))
    of_entropy = (geometric_sum / (1 + q ** (2 * N)) ** ((N - 1) / N)) ** 0.5
    return of_volume * of_entropy if entropy else of_volume


s = minimizer(DEPTH, np.zeros(2), 1 / BETA)
expected = ((1 - 1 / DEPTH) / (2 * BETA)) ** 0.5
print(f"E = |W|^2 / 2: the minimizer of F has the singular values {s.round(8)}")
assert np.allclose(s, expected, atol=1e-7)
drawn, densities = {}, {}
for entropy in (True, False):
    flow = riemdln.langevin_flow(
        symmetric,
        np.tile(np.diag([1.0, 0.5]), (COPIES, 1, 1)),
        np.arange(ROUNDS + 3),
        beta=BETA,
        step_size=0.25,
        entropy=entropy,
        metropolis=True,
        vectorized=True,
        rng=0,
    )
    drawn[entropy] = flow.singular_values[3:]
    densities[entropy] = density(grid, entropy) / simpson(density(grid, entropy), x=grid)
    # Copies are independent, what one draws at different times is not.
    q = (drawn[entropy][..., 1] / drawn[entropy][..., 0]) ** (1 / DEPTH)
    means = q.mean(axis=0)
    mean, error = means.mean(), means.std() / COPIES**0.5
    exact = simpson(grid * densities[entropy], x=grid)
    near, exact_near = np.mean(q > 0.95), simpson(densities[entropy][950:], x=grid[950:])
    print(
        f"stationary law {'with' if entropy else 'without'} the entropy: mean of q {mean:.4f} +- "
        f"{error:.4f}, exactly {exact:.4f}; q > 0.95 in {near:.2%}, exactly {exact_near:.2%}; "
        f"{flow.acceptance_rates.mean():.0%} of steps accepted"
    )
    assert abs(mean - exact) < 4 * error
    assert densities[entropy][-1] == 0

# %%
# The figures
# -----------
# They stand at the head of this page. For the minimizers lines solve the equation, and dots are
# what trust regions find. For the stationary law lines are exact, and steps are histograms of
# draws.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#CC79A7"], strict=True))
LABELS = {1.5: "depth 1.5", 2: "depth 2", 3: "depth 3", np.inf: r"depth $\infty$"}


def two_panels(title):
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, *panels


def finished(figure, name):
    for panel in figure.axes:
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    figure.savefig(f"plot_free_energy_{name}.png", dpi=150)


figure, gap, ratio = two_panels(
    "Motion up the entropy drives singular values apart\n"
    r"Flow of a $2 \times 2$ matrix W up $S(W)$, the log-volume of its balanced layers,"
    "\nunder $g^N$, the metric that N balanced layers give their product W"
)
for depth, colour in COLOURS.items():
    flow = motions[depth]
    first, second = flow.singular_values.T
    gained = flow.costs[0] - flow.costs
    gap.semilogy(gained, first - second, color=colour, label=LABELS[depth])
    ratio.semilogy(gained, first / second, color=colour)
gap.set(title="The gap grows at every depth", ylabel="gap $s_1 - s_2$", ylim=(1, 50))
gap.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
ratio.set(title="The ratio grows above depth 2", ylabel="ratio $s_1 / s_2$", ylim=(1.8, 12))
ratio.set_yticks([2, 4, 8], ["2", "4", "8"])
for panel in (gap, ratio):
    panel.set(xlabel="entropy S gained by the flow", xlim=(0, 1))
gap.legend(frameon=False)
finished(figure, "motion")

figure, gap, ratio = two_panels(
    "In minimizers of the free energy singular values are drawn together\n"
    r"$F = \|W - T\|^2 / 2 - S / \beta$, entropy S, "
    r"$2 \times 2$ target T of singular values 2 and 0.1"
)
for depth, colour in COLOURS.items():
    first, second = lines[depth].T
    gap.plot(FINE, first - second, color=colour)
    ratio.semilogy(FINE, first / second, color=colour, label=LABELS[depth])
    first, second = minimizers[depth].T
    gap.plot(TEMPERATURES, first - second, "o", color=colour, markersize=5)
    ratio.semilogy(TEMPERATURES, first / second, "o", color=colour, markersize=5)
gap.set(title="The gap shrinks above depth 2", ylabel="gap $s_1 - s_2$")
ratio.set(title="The ratio falls at every depth", ylabel="ratio $s_1 / s_2$", ylim=(3, 34))
ratio.set_yticks([5, 10, 20], ["5", "10", "20"])
for panel in (gap, ratio):
    panel.set(xlabel=r"temperature $1 / \beta$", xlim=(0, 1.04))
ratio.plot([], [], "o-", color="0.5", markersize=5, label="dots: by trust regions")
ratio.legend(frameon=False, ncols=2, columnspacing=1)
finished(figure, "minimizers")

figure, law, cloud = two_panels(
    "At equilibrium singular values repel each other, with the entropy S and without\n"
    rf"Draws of $2 \times 2$ matrices at depth {DEPTH}, cost $E = \|W\|^2 / 2$, $\beta = {BETA:g}$"
)
for entropy, colour, name in ((True, "#009E73", "with"), (False, "#CC79A7", "without")):
    q = (drawn[entropy][..., 1] / drawn[entropy][..., 0]).ravel() ** (1 / DEPTH)
    law.hist(q, np.linspace(0, 1, 31), density=True, color=colour, histtype="step", alpha=0.6)
    law.plot(grid, densities[entropy], color=colour, label=f"{name} entropy")
large, small = drawn[True][-1].T ** (1 / DEPTH)
cloud.plot(small, large, ".", color="#009E73", alpha=0.5, markersize=3)
cloud.plot([0, 2], [0, 2], color="0.5", linewidth=0.8)
cloud.plot(*s ** (1 / DEPTH), "*", color="#E69F00", markersize=15)
cloud.annotate("$s_1 = s_2$", (0.15, 0.15), (8, -4), textcoords="offset points")
cloud.annotate(
    "minimizer of\n$F = E - S / \\beta$", s ** (1 / DEPTH), (12, -26), textcoords="offset points"
)
law.set(
    title="Equal singular values have density 0",
    xlabel="$(s_2 / s_1)^{1/3}$ (1: equal)",
    ylabel="density (steps: draws, lines: exact)",
    xlim=(0, 1),
    ylim=(0, 1.75),
)
cloud.set(
    title="Draws keep away from the minimizer",
    xlabel="$s_2^{1/3}$ of a draw with the entropy",
    ylabel="$s_1^{1/3}$ of the draw",
    xlim=(0, 1.3),
    ylim=(0, 1.5),
)
law.legend(frameon=False)
finished(figure, "equilibrium")
plt.show()
