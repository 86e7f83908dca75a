r"""
Noise on the layers makes an entropy
====================================

Train balanced layers with noise that keeps them balanced. Their product W moves by the Langevin
equation under :math:`g^N`, with one more term: the gradient of an entropy.

.. image:: images/sphx_glr_plot_noisy_layers_001.png
   :alt: Means of singular values in time: of noisy layers, and of W with the entropy and without
   :class: figures-first
   :target: ../_images/sphx_glr_plot_noisy_layers_001.png

.. image:: images/sphx_glr_plot_noisy_layers_002.png
   :alt: Differences of the distributions of singular values, with the entropy and without
   :class: figures-first
   :target: ../_images/sphx_glr_plot_noisy_layers_002.png

The gradient flow of the layers of a balanced network is a gradient flow of their product W alone,
under the metric :math:`g^N`. Is it so with noise? Put noise on each weight and keep the layers
balanced. This is the gradient flow with Brownian motion of the balanced layers,

.. math::

    dW_j = -\frac{\partial E}{\partial W_j} \, dt + \sqrt{2 / \beta} \, dB_j, \qquad
    W_{j+1}^T W_{j+1} = W_j W_j^T.

Then W moves by an equation of its own, but it is not the Langevin equation under :math:`g^N`. It
has one more term (Menon 2024; Menon and Yu 2025), that of the entropy S(W), the logarithm of the
volume of all balanced layers with the product W:

.. math::

    dW = -A(\nabla E) \, dt + \frac{1}{\beta} \bigl( \Delta_g W + A(\nabla S) \bigr) \, dt
         + \sqrt{2 / \beta} \, A^{1/2} dB.

`riemdln.network_langevin_flow` moves layers and knows nothing of metric or entropy.
`riemdln.langevin_flow` moves W and knows nothing of layers. This example compares the singular
values of many copies of both. With the entropy they have the same law, and without it they do not.

The guide has a section on :ref:`noise on the layers <noisy-layers-guide>`, and the theory on
:ref:`Langevin's equation <langevin>`.

Run it with ``python examples/plot_noisy_layers.py``; it writes ``plot_noisy_layers.png`` and
``plot_noisy_layers_distributions.png``.
"""

# %%
# Both sides
# ----------
# All copies start from one 2 x 3 matrix W, or from balanced layers with this product. The cost
# pulls them to a target while noise moves them. Finite steps make an error on both sides, but at
# these sizes it is smaller than the error of so few copies. The scheme of weak order two can take
# longer steps.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.stats import ks_2samp

import riemdln

COPIES, BETA = 3000, 2.0
DEPTHS = [2, 3]
TIMES = np.linspace(0, 0.5, 6)
target = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
start = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2]])


def problem_at(depth):
    """Half the squared distance from the target, of each matrix of a stack."""
    manifold = riemdln.FullRank(2, 3, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.numpy(manifold)
    def cost(W):
        return np.sum((W - target) ** 2, axis=(-2, -1)) / 2

    @pymanopt.function.numpy(manifold)
    def euclidean_gradient(W):
        return W - target

    return pymanopt.Problem(manifold, cost, euclidean_gradient=euclidean_gradient)


def copies_of(matrix):
    return np.tile(matrix, (COPIES, 1, 1))


options = {"beta": BETA, "vectorized": True}
layers, matrices = {}, {}
for depth in DEPTHS:
    problem = problem_at(depth)
    stacks = [copies_of(W) for W in riemdln.balanced_layers(start, depth)]
    layers[depth] = riemdln.network_langevin_flow(
        problem, stacks, TIMES, step_size=0.01, rng=0, **options
    )
    for entropy in (True, False):
        matrices[depth, entropy] = riemdln.langevin_flow(
            problem,
            copies_of(start),
            TIMES,
            step_size=0.05,
            scheme="splitting",
            entropy=entropy,
            rng=1,
            **options,
        )
    print(f"depth {depth}: layers are balanced to {layers[depth].imbalances.max():.0e}")
    assert layers[depth].imbalances.max() < 1e-12

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_noisy_layers_001_2.png"

# %%
# Two samples
# -----------
# At the last time, do the singular values of both sides have the same law? The test of Kolmogorov
# and Smirnov takes the greatest distance of their distribution functions. If the laws are the same,
# its p-value is below p with the chance p.

for (depth, entropy), flow in matrices.items():
    of_layers, of_W = layers[depth].singular_values[-1], flow.singular_values[-1]
    tests = [ks_2samp(of_layers[:, i], of_W[:, i]) for i in (0, 1)]
    print(
        f"depth {depth}, {'with' if entropy else 'without'} the entropy: means of s_1, s_2 "
        f"{of_W.mean(axis=0).round(3)}, of the layers {of_layers.mean(axis=0).round(3)}; "
        f"p-values {tests[0].pvalue:.2g}, {tests[1].pvalue:.2g}"
    )
    least = min(test.pvalue for test in tests)
    assert least > 1e-3 if entropy else least < 1e-4

# %%
# The figures
# -----------
# They stand at the head of this page. First come the means over time, then the distribution
# functions of both singular values at the last time, less those of the layers. Two samples of one
# law stay within the grey band in 95 of 100 cases.

STYLES = {
    True: ("#009E73", "o", "equation with the entropy S"),
    False: ("#CC79A7", "s", "equation without it"),
}
SOURCE = (
    f"{COPIES:,} copies of a $2 \\times 3$ matrix W, moved by noise ($\\beta = 2$) "
    r"and the cost $\|W - T\|^2 / 2$"
)
band = 1.358 * (2 / COPIES) ** 0.5


def panels_by_depth(ylabel):
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained", sharey=True)
    panels[0].set_ylabel(ylabel)
    for depth, panel in zip(DEPTHS, panels, strict=True):
        panel.set_title(f"Depth {depth}: only with S they agree")
        panel.grid(alpha=0.25)
    return figure, dict(zip(DEPTHS, panels, strict=True))


figure, panels = panels_by_depth("means of the singular values of W")
for depth, panel in panels.items():
    panel.plot(TIMES, layers[depth].singular_values.mean(axis=1), color="0.65", linewidth=3)
    panel.plot([], [], color="0.65", linewidth=3, label="W, the product of noisy layers")
    for i in (0, 1):
        early = layers[depth].singular_values[1, :, i].mean()
        panel.annotate(f"$s_{i + 1}$", (TIMES[1], early), (-18, 12), textcoords="offset points")
    for entropy, (colour, marker, name) in STYLES.items():
        means = matrices[depth, entropy].singular_values.mean(axis=1)
        lines = panel.plot(TIMES, means, marker, color=colour, markersize=6)
        lines[0].set_label(name)
    panel.set(xlabel="time", ylim=(0, 1.9))
panels[3].legend(frameon=False, loc=(0.14, 0.46))
figure.suptitle(
    f"Noisy layers move their product as the equation with the entropy S says\n{SOURCE}",
    fontsize=12,
)
figure.savefig("plot_noisy_layers.png", dpi=150)

figure, panels = panels_by_depth("share below s, less that of the layers")
for depth, panel in panels.items():
    of_layers = layers[depth].singular_values[-1]
    grid = np.linspace(0, of_layers.max(), 300)
    panel.axhspan(-band, band, color="0.5", alpha=0.2, linewidth=0)
    for entropy, (colour, _, name) in STYLES.items():
        of_W = matrices[depth, entropy].singular_values[-1]
        for i, line in enumerate(("-", "--")):
            below, above = (np.sort(s[:, i]) for s in (of_layers, of_W))
            difference = np.searchsorted(above, grid) - np.searchsorted(below, grid)
            label = f"$s_{i + 1}$, {name.removeprefix('equation ')}"
            panel.plot(grid, difference / COPIES, line, color=colour, label=label)
    panel.set(xlabel=f"s, for singular values of W at time {TIMES[-1]:g}", xlim=(0, 4))
panels[3].text(3.95, -0.9 * band, "grey: 95 % of cases by chance", ha="right", va="bottom")
panels[2].legend(frameon=False)
figure.suptitle(
    f"With the entropy S the law is that of the layers, without it the law is another\n{SOURCE}",
    fontsize=12,
)
figure.savefig("plot_noisy_layers_distributions.png", dpi=150)
plt.show()
