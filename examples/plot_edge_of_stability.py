r"""
The edge of stability, known in advance
=======================================

The Riemannian Hessian of one matrix tells the largest stable learning rate of balanced layers. Just
above it depth 1 diverges, and here deeper networks move on to a flatter minimum.

.. image:: images/sphx_glr_plot_edge_of_stability_001.png
   :alt: The largest stable rate by depth, and distances from the minimum 5 % above it
   :class: figures-first
   :target: ../_images/sphx_glr_plot_edge_of_stability_001.png

.. image:: images/sphx_glr_plot_edge_of_stability_002.png
   :alt: The sharpness of the layers falls below the edge; distances with another loss
   :class: figures-first
   :target: ../_images/sphx_glr_plot_edge_of_stability_002.png

Near a minimum gradient descent on the layers of a balanced network is stable up to the learning
rate :math:`2 / \lambda`, where :math:`\lambda` is the largest eigenvalue of the Riemannian Hessian
of their product. Deeper networks above that rate leave their balance.

The guide tells :doc:`how long a step may be </guide/steps>`, and the theory has the
:ref:`equations <finite-steps>`. The functions are `riemdln.spectrum`, `riemdln.sharpness`,
`riemdln.max_stable_step` and `riemdln.network_sharpness`. Networks that train at the edge of
stability were described by Cohen, Kaur, Li, Kolter and Talwalkar (ICLR 2021).

Run it with ``python examples/plot_edge_of_stability.py``; it writes
``plot_edge_of_stability.png`` and ``plot_edge_of_stability_above.png``.
"""

# %%
# The minima
# ----------
# The problem is linear regression with noise, of two outputs on four inputs, with the losses
# :math:`\mathrm{mean} \, \| W x - y \|_p^p / p` for p = 2 and 4. Trust regions find the minima,
# until the gradient is a rounding error.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from pymanopt.optimizers import TrustRegions

import riemdln

DEPTHS = [1, 2, 3, 4, 5]
SAMPLES = 20
rng = np.random.default_rng(3)
X = rng.standard_normal((4, SAMPLES))
target = rng.standard_normal((2, 4))
target *= 1.5 / np.linalg.norm(target, 2)
Y = target @ X + 0.5 * rng.standard_normal((2, SAMPLES))


def problem_at(p, depth, retraction="linear"):
    """The l_p regression under the metric of one depth."""
    metric = riemdln.DeepLinearMetric(depth)
    manifold = riemdln.FullRank(2, 4, metric, retraction=retraction, rng=0)
    plain = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        plain(lambda W: np.sum((W @ X - Y) ** p) / (p * SAMPLES)),
        euclidean_gradient=plain(lambda W: (W @ X - Y) ** (p - 1) @ X.T / SAMPLES),
        euclidean_hessian=plain(
            lambda W, Z: (p - 1) * ((W @ X - Y) ** (p - 2) * (Z @ X)) @ X.T / SAMPLES
        ),
    )


minima = {}
for p in (2, 4):
    newton = TrustRegions(verbosity=0, min_gradient_norm=1e-13)
    minima[p] = newton.run(problem_at(p, 1), initial_point=target).point
    assert np.linalg.norm(problem_at(p, 1).euclidean_gradient(minima[p])) < 1e-12

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_edge_of_stability_001_2.png"

# %%
# The largest stable rate
# -----------------------
# Explicit layers start next to the balanced layers of the minimum, and descend with a constant
# rate. A rate is stable if their product does not go away from the minimum. Bisection finds the
# largest stable one.


def layers_near(W, depth, distance):
    """Balanced layers with some noise."""
    noise = np.random.default_rng(0)
    layers = riemdln.balanced_layers(W, depth)
    return [layer + distance * noise.standard_normal(layer.shape) for layer in layers]


def descend(problem, W, layers, rate, steps, far=10.0):
    """How far the product of the layers is from a minimum along descent, and the layers."""
    distances, path = [], []
    for _ in range(steps):
        V = riemdln.end_to_end(layers)
        distances.append(np.linalg.norm(V - W))
        path.append(layers)
        if not distances[-1] < far:
            break
        gradients = riemdln.layer_gradients(layers, problem.euclidean_gradient(V))
        layers = [layer - rate * G for layer, G in zip(layers, gradients, strict=True)]
    return np.array(distances), path


def largest_stable_rate(p, depth, guess):
    """By bisection, to 0.2 %."""
    low, high = 0.8 * guess, 1.2 * guess
    while high - low > 2e-3 * guess:
        rate = (low + high) / 2
        layers = layers_near(minima[p], depth, 1e-6)
        distances, _ = descend(problem_at(p, depth), minima[p], layers, rate, 1500, far=1e-4)
        low, high = (rate, high) if distances[-1] < 1e-4 else (low, rate)
    return (low + high) / 2


predicted, measured = {}, {}
for p in (2, 4):
    for depth in DEPTHS:
        rate = riemdln.max_stable_step(problem_at(p, depth), minima[p])
        predicted[p, depth], measured[p, depth] = rate, largest_stable_rate(p, depth, rate)
        error = measured[p, depth] / rate - 1
        print(f"l_{p}, depth {depth}: predicted {rate:.4f}, measured {error:+.2%}")
        assert abs(error) < 0.01

# %%
# Five percent above it
# ---------------------
# At depth 1 the runs diverge. Deeper networks leave the minimum too, go to and fro at a distance,
# and are driven out of balance, where the same product W has a smaller sharpness. There they come
# to rest. The retraction "network" instead takes balanced layers of the same product after each
# step. Then there is no such way out, and the run goes to and fro for ever. The theory shows why
# going to and fro lowers the sharpness, and how fast.
#
# That is so for these data. Where the balanced minimum is the flattest, as for
# :math:`\| W - T \|^2 / 2`, the layers go to and fro too, and with the :math:`\ell_4` loss some
# data let them diverge.

ABOVE = 1.05
STEPS = 1500
SHOWN = [1, 2, 3, 5]
runs, sharpnesses = {}, {}
for p in (2, 4):
    for depth in SHOWN:
        problem, W = problem_at(p, depth), minima[p]
        rate = ABOVE * predicted[p, depth]
        distances, path = descend(problem, W, layers_near(W, depth, 3e-5), rate, STEPS)
        runs[p, depth] = distances
        if depth == 1:
            assert distances[-1] > 10
            continue
        chosen = np.unique(np.geomspace(1, len(path) - 1, 30).astype(int))
        # Of two steps in a row, between which the layers go to and fro.
        pairs = [[riemdln.network_sharpness(problem, path[j]) for j in (k - 1, k)] for k in chosen]
        values = np.mean(pairs, axis=1) * rate / 2
        sharpnesses[p, depth] = chosen, values
        imbalance = riemdln.imbalance(path[-1])
        print(
            f"l_{p}, depth {depth}: goes {distances.max():.2f} away, ends {distances[-1]:.0e} from "
            f"the minimum, {imbalance:.2f} out of balance, {values[-1]:.2f} of the edge"
        )
        assert distances.max() > 100 * distances[0]
        assert distances[-1] < 1e-3 * distances.max()
        assert values[-1] < 1 < values[0]
        assert imbalance > 0.01

rebalanced, W = [], minima[2]
problem = problem_at(2, 3, retraction="network")
V = riemdln.end_to_end(layers_near(W, 3, 3e-5))
for _ in range(STEPS):
    rebalanced.append(np.linalg.norm(V - W))
    V = problem.manifold.retraction(V, -ABOVE * predicted[2, 3] * problem.riemannian_gradient(V))
print(f"l_2, depth 3, always balanced: ends {rebalanced[-1]:.2f} from the minimum")
assert rebalanced[-1] > 0.05

# %%
# The figures
# -----------
# They stand at the head of this page.

COLOURS = dict(zip(SHOWN, ["#000000", "#0072B2", "#D55E00", "#009E73"], strict=True))


def draw_distances(panel, p):
    for depth in SHOWN:
        steps = np.arange(1, len(runs[p, depth]) + 1)
        panel.loglog(steps, runs[p, depth], color=COLOURS[depth], label=f"depth {depth}")
    panel.set(
        xlabel="step of gradient descent",
        ylabel="distance of $W$ from the minimum",
        ylim=(1e-12, 30),
    )


def finished(figure, title, name):
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    source = (
        r"Regression of two outputs on four random inputs, loss $\ell_p$: mean $\|Wx - y\|_p^p / p$"
    )
    figure.suptitle(f"{title}\n{source}", fontsize=12)
    figure.savefig(f"plot_edge_of_stability{name}.png", dpi=150)


figure, (rates, two) = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for p, marker in ((2, "o"), (4, "s")):
    shares = [predicted[p, depth] for depth in DEPTHS]
    rates.semilogy(DEPTHS, shares, color="0.5", linewidth=1, zorder=0)
    dots = [measured[p, depth] for depth in DEPTHS]
    rates.plot(DEPTHS, dots, marker, color="0.3", label=f"measured, loss $\\ell_{p}$")
rates.plot([], [], color="0.5", linewidth=1, label=r"predicted, $2 / \lambda$")
rates.text(
    0.04,
    0.05,
    "$\\lambda$: largest eigenvalue of the\nRiemannian Hessian at the minimum",
    transform=rates.transAxes,
)
rates.set(
    title="The prediction is right to 1 %",
    xlabel="depth",
    ylabel="largest stable learning rate",
    ylim=(0.11, None),
    xticks=DEPTHS,
    yticks=[0.2, 0.5, 1.0],
)
rates.yaxis.set_major_formatter("{x:g}")
rates.yaxis.set_minor_formatter("")
rates.legend(frameon=False)
draw_distances(two, 2)
two.loglog(
    np.arange(1, STEPS + 1),
    rebalanced,
    color="0.7",
    linewidth=1.2,
    zorder=1,
    label="depth 3, balance\nmade anew each step",
)
two.set_title("5 % above it only depth 1 diverges ($\\ell_2$)")
two.legend(frameon=False, loc="lower left")
finished(
    figure, "The largest stable rate is known in advance; here only depth 1 diverges above it", ""
)

figure, (sharp, four) = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for (p, depth), (chosen, values) in sharpnesses.items():
    sharp.semilogx(chosen, values, "-" if p == 2 else "--", color=COLOURS[depth])
sharp.axhline(1, color="0.5", linewidth=1)
sharp.text(1.1, 1.003, "the edge: stable below", color="0.35")
sharp.text(1.1, 0.982, "solid: loss $\\ell_2$\ndashed: loss $\\ell_4$")
sharp.text(1.1, 1.03, "depth 1 diverges, as it has\nno other layers: not shown")
sharp.set(
    title="They leave for layers that are less sharp",
    xlabel="step of gradient descent",
    ylabel=r"rate $\times$ (largest Hessian eigenvalue) / 2",
)
draw_distances(four, 4)
four.set_title("There they come to rest (loss $\\ell_4$)")
four.legend(frameon=False, loc="lower left")
finished(
    figure,
    "5 % above the edge deeper networks come to rest at a flatter minimum\n"
    "From balanced layers, with some noise, to flatter layers of the same minimum $W$",
    "_above",
)
plt.show()
