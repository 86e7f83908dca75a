r"""
Mini-batches: noise that the metric shapes
==========================================

Runs with mini-batches scatter about the gradient flow, in proportion to the square root of
step / batch. Depth N shapes this noise: compared with the variance across the minimizer w, it makes
the variance along w N times as large.

.. image:: images/sphx_glr_plot_mini_batches_001.png
   :alt: Runs about the flow, and their variances along w and across it by depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_mini_batches_001.png

.. image:: images/sphx_glr_plot_mini_batches_002.png
   :alt: How far runs are from their mean, and the mean from the flow, by step and by batch
   :class: figures-first
   :target: ../_images/sphx_glr_plot_mini_batches_002.png

A step of stochastic gradient descent on a network moves the end-to-end matrix by

.. math:: w \leftarrow w - h \, A_w(P), \qquad P = \nabla E_{\mathrm{batch}}(w) ,

up to :math:`O(h^2)`, where h is the step size. The gradient P of a batch of b samples has the mean
:math:`\nabla E` and the covariance :math:`C / b`. So a step has noise of the covariance
:math:`h^2 A_w C A_w / b`. The noise of the Langevin equation is in proportion to :math:`A_w`
instead, and comes to the same spread at every depth.

The guide has pages on :doc:`flows </guide/flows>` and on :doc:`noise </guide/noise>`, the theory a
section on :ref:`Langevin's equation <langevin>`. The calls are `DeepLinearMetric.sharp
<riemdln.DeepLinearMetric.sharp>`, `riemdln.gradient_flow` and `riemdln.langevin_flow`.

Run it with ``python examples/plot_mini_batches.py``; it writes ``plot_mini_batches.png`` and
``plot_mini_batches_errors.png``.
"""

# %%
# The data
# --------
# The concentration of ethanol is predicted from gas sensors, as in :doc:`plot_lp_regression`. Some
# measurements are far from all others, and one of them in a batch of eight can ruin a run. So each
# feature is replaced by its normal score. We take the first four principal components, scaled to
# unit variance: the Hessian of the loss :math:`E = \mathrm{mean} \, |w x - y|^2 / 2` is then the
# identity.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from sklearn.decomposition import PCA
from sklearn.preprocessing import quantile_transform

import riemdln

# Where no file is run, in a notebook or in the gallery, the current folder is that of the examples.
EXAMPLES = Path(__file__).parent if "__file__" in globals() else Path()
columns = np.loadtxt(EXAMPLES / "data" / "gas_sensor_ethanol.csv.gz", delimiter=",", skiprows=1)
scores = quantile_transform(columns[:, 2:], n_quantiles=100, output_distribution="normal")
X = PCA(4, whiten=True).fit_transform(np.clip(scores, -3, 3))
X, y = X / X.std(axis=0), columns[:, 1]
y = (y - y.mean()) / y.std()

DEPTHS = [1, 2, 3]
minimizer = (y @ X / len(X))[None]
along = minimizer[0] / np.linalg.norm(minimizer)
residuals = minimizer @ X.T - y
C = np.cov(residuals * X.T)  # the covariance of the gradient of one sample, at the minimizer

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_mini_batches_001_1.png"

# %%
# Ten lines of descent
# --------------------
# The metric takes stacks of matrices, so one loop makes a thousand runs, each with batches of its
# own.


def descend(depth, start, step, batch, time, runs, seed, every=None):
    """Runs (runs, 1, 4) of mini-batch descent at a time, or each `every` steps."""
    metric, rng = riemdln.DeepLinearMetric(depth), np.random.default_rng(seed)
    W, path = np.tile(start, (runs, 1, 1)), []
    for k in range(round(time / step)):
        rows = rng.integers(len(X), size=(runs, batch))
        x = X[rows]
        P = (W @ x.mT - y[rows][:, None]) @ x / batch
        path += [W] if every and k % every == 0 else []
        W = W - step * metric.sharp(W, P)
    return np.stack([*path, W]) if every else W


# %%
# About the flow
# --------------
# All runs start from one row and go on to the time 1. There the mean of the runs is compared with
# the gradient flow, and the runs with their mean. The mean of finitely many runs has an
# error of its own; its expected square is subtracted.

TIME, RUNS, BATCH = 1.0, 1500, 128
STEPS = 1 / np.array([8, 16, 32, 64])
BATCHES = np.array([8, 32, 128, 512])
other = np.array([1, -1, 1, 1]) @ (np.eye(4) - np.outer(along, along))
start = (-0.3 * along + 0.4 * other / np.linalg.norm(other))[None]


def problem_at(depth):
    """The loss of all samples, of each row of a stack."""
    manifold = riemdln.FullRank(1, 4, riemdln.DeepLinearMetric(depth))
    numpy = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum((W - minimizer) ** 2, axis=(-2, -1)) / 2),
        euclidean_gradient=numpy(lambda W: W - minimizer),
    )


def distances(runs, flow):
    """How far the mean of the runs is from the flow, and the runs are from their mean."""
    variance = np.sum(runs.var(axis=0, ddof=1))
    of_mean = np.sum((runs.mean(axis=0) - flow) ** 2) - variance / len(runs)
    return np.sqrt([max(of_mean, 0.0), variance])


times = np.linspace(0, TIME, 101)
flows = {depth: riemdln.gradient_flow(problem_at(depth), start, times) for depth in DEPTHS}
by_step, by_batch = {}, {}
for depth, flow in flows.items():
    end = flow.points[-1]
    ends = [descend(depth, start, h, BATCH, TIME, RUNS, seed=0) for h in STEPS]
    by_step[depth] = np.array([distances(runs, end) for runs in ends])
    ends = [descend(depth, start, 0.05, b, TIME, 400, seed=1) for b in BATCHES]
    by_batch[depth] = np.array([distances(runs, end)[1] for runs in ends])
    bias, spread = np.polyfit(np.log(STEPS), np.log(by_step[depth]), 1)[0]
    thinned = np.polyfit(np.log(BATCHES), np.log(by_batch[depth]), 1)[0]
    print(
        f"depth {depth}: the mean errs as step^{bias:.2f}, runs spread as step^{spread:.2f}, "
        f"and as batch^{thinned:.2f}"
    )
    assert abs(bias - 1) < 0.15
    assert abs(spread - 0.5) < 0.05
    assert abs(thinned + 0.5) < 0.05

# %%
# Where it settles
# ----------------
# Near the minimizer, where the Hessian is the identity, the covariance of many short steps solves
# :math:`A \Sigma + \Sigma A = (h / b) \, A C A`. Of one row, A is N times as large along w as
# across it, :math:`N |w|^{2 - 2/N}` and :math:`|w|^{2 - 2/N}`. So
#
# .. math:: \Sigma_{ii} = \frac{h}{2 b} \, \theta_i \, C_{ii}, \qquad
#           \theta = N |w|^{2 - 2/N} \ \text{along w}, \quad |w|^{2 - 2/N} \ \text{across it} .
#
# Mini-batches on the layers do the same. The Langevin equation, at the temperature
# :math:`1 / \beta = h \, \mathrm{Tr}(C) / (8 b)`, has the covariance :math:`I / \beta` at every
# depth: where :math:`A_w` makes the noise stronger, it makes the drift back faster too.

STEP, BATCH_AT_REST, RUNS_AT_REST = 0.02, 16, 1000
beta = 8 * BATCH_AT_REST / (STEP * np.trace(C))
across = np.eye(4) - np.outer(along, along)


def variances(stack):
    """The variances of runs along w and across it."""
    covariance = np.cov(stack.reshape(-1, 4).T)
    return np.array([along @ covariance @ along, np.trace(across @ covariance)])


unit = STEP / (2 * BATCH_AT_REST) * np.array([along @ C @ along, np.trace(across @ C)])


def descend_layers(depth, runs, time, seed):
    """The same of the layers: a row and N - 1 numbers. Gradients are those of the chain rule."""
    rng = np.random.default_rng(seed)
    first, *rest = (np.tile(w, (runs, 1, 1)) for w in riemdln.balanced_layers(minimizer, depth))
    path = []
    for k in range(round(time / STEP)):
        rows = rng.integers(len(X), size=(runs, BATCH_AT_REST))
        x, factor = X[rows], np.prod(rest, axis=0) if rest else 1.0
        P = (factor * first @ x.mT - y[rows][:, None]) @ x / BATCH_AT_REST
        above = np.sum(P * first, axis=-1, keepdims=True)
        path += [factor * first] if k * STEP > 4 and k % 25 == 0 else []
        first = first - STEP * factor * P
        rest = [v - STEP * above * (factor / v) for v in rest]
    return np.stack(path)


NAMES = ["mini-batches on w", "mini-batches on the layers", "Langevin's equation"]
measured = {}
for depth in DEPTHS:
    runs = descend(depth, minimizer, STEP, BATCH_AT_REST, 12.0, RUNS_AT_REST, seed=2, every=25)
    noisy = riemdln.langevin_flow(
        problem_at(depth),
        np.tile(minimizer, (RUNS_AT_REST, 1, 1)),
        np.linspace(0, 12, 25),
        beta=beta,
        step_size=0.1,
        scheme="splitting",
        vectorized=True,
        rng=3,
    )
    measured[NAMES[0], depth] = variances(runs[8:]) / unit
    measured[NAMES[1], depth] = variances(descend_layers(depth, RUNS_AT_REST, 12.0, seed=4)) / unit
    measured[NAMES[2], depth] = variances(noisy.points[8:]) * beta / [1, 3]
    expected = np.linalg.norm(minimizer) ** (2 - 2 / depth) * np.array([depth, 1])
    for name in NAMES:
        print(f"depth {depth}, {name}: {measured[name, depth].round(3)}, theta {expected.round(3)}")
        unshaped = name == "Langevin's equation"
        assert np.allclose(measured[name, depth], 1 if unshaped else expected, rtol=0.1)

# %%
# The figures
# -----------
# They stand at the head of this page. The two predicted lines are :math:`\theta`.

COLOURS = {1: "#000000", 2: "#0072B2", 3: "#D55E00"}
MARKERS = {1: "o", 2: "s", 3: "D"}


def finished(figure, title, name):
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    figure.suptitle(title, fontsize=12)
    figure.savefig(f"plot_mini_batches{name}.png", dpi=150)


figure, (paths, rest) = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
for step, colour, width in ((0.2, "#56B4E9", 0.8), (0.01, "#009E73", 1.2)):
    runs = descend(3, start, step, 8, TIME, 12, seed=6, every=1)[:, :, 0] @ along
    paths.plot(step * np.arange(len(runs)), runs, color=colour, linewidth=width, alpha=0.8)
    paths.plot([], [], color=colour, label=f"12 runs, step {step:g}, batch 8")
paths.plot(
    times, flows[3].points[:, 0] @ along, color="black", linewidth=2.5, label="gradient flow"
)
paths.set(
    title="Depth 3: runs scatter about the flow",
    xlabel="time = step size times number of steps",
    ylabel="component of w along the minimizer",
    ylim=(-0.5, 0.1),
)
paths.legend(frameon=False)
fine = np.linspace(1, 3, 101)
size = np.linalg.norm(minimizer) ** (2 - 2 / fine)
# Side by side: at depth 1 all are equal, and Langevin's are so in both directions.
for i, colour, name, shift in ((0, "#CC79A7", "along w", -0.03), (1, "#E69F00", "across w", 0.03)):
    rest.plot(
        fine,
        size * (fine if i == 0 else 1),
        color=colour,
        label=f"{name}, predicted for mini-batches",
    )
    for source, marker in zip(NAMES, "os^", strict=True):
        values = [measured[source, depth][i] for depth in DEPTHS]
        face = "white" if marker == "s" else colour
        places = np.add(DEPTHS, shift)
        rest.plot(places, values, marker, color=colour, markerfacecolor=face, markersize=6)
LABELS = [*NAMES[:2], f"{NAMES[2]}: noise and drift\nscale alike, so the spread stays"]
for label, marker in zip(LABELS, "os^", strict=True):
    face = "white" if marker == "s" else "0.4"
    rest.plot([], [], marker, color="0.4", markerfacecolor=face, markersize=6, label=label)
rest.set(
    title="At rest: wider along w than across it\n"
    f"({RUNS_AT_REST:,} runs, step {STEP}, batch {BATCH_AT_REST})",
    xlabel="depth",
    ylabel="variance about the minimizer / at depth 1",
    xticks=DEPTHS,
    yticks=[0.5, 1, 1.5, 2, 2.5],
    ylim=(0.4, 2.7),
)
rest.legend(frameon=False, loc="upper left")
finished(
    figure,
    "Mini-batches scatter runs about the flow, and depth shapes the noise\n"
    "Regression of ethanol on four features of gas sensors; w is a row of four weights",
    "",
)

figure, (steps, batches) = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
for depth, colour in COLOURS.items():
    style = {"color": colour, "marker": MARKERS[depth], "markersize": 5}
    bias, spread = by_step[depth].T
    steps.loglog(STEPS, spread, "-", **style)
    steps.loglog(STEPS, bias, "--", **style)
    steps.plot([], [], "-", label=f"depth {depth}", **style)
    batches.loglog(BATCHES, by_batch[depth], "-", **style)
for style, name in (("-", "runs from their mean"), ("--", "mean from the flow")):
    steps.plot([], [], style, color="0.4", label=name)
steps.plot(STEPS, 0.2 * STEPS**0.5, color="0.6", linewidth=1)
steps.plot(STEPS, 0.08 * STEPS, color="0.6", linewidth=1)
aside = {"textcoords": "offset points"}
steps.annotate("slope 1/2", (STEPS[2], 0.2 * STEPS[2] ** 0.5), (-30, 10), **aside)
steps.annotate("slope 1", (STEPS[2], 0.08 * STEPS[2]), (8, -12), **aside)
steps.set(
    title=r"Like step$^{1/2}$ (solid) and step (dashed)",
    xlabel="step size",
    ylabel="distance at time 1, batch 128",
)
steps.set_xticks(STEPS, [f"1/{round(1 / h)}" for h in STEPS])
batches.plot(BATCHES, 0.6 / BATCHES**0.5, color="0.6", linewidth=1)
batches.annotate("slope $-1/2$", (BATCHES[2], 0.6 / BATCHES[2] ** 0.5), (6, 4), **aside)
batches.set(
    title=r"Like batch$^{-1/2}$",
    xlabel="samples in a batch",
    ylabel="distance at time 1, step size 0.05",
)
batches.set_xticks(BATCHES, BATCHES)
for panel in (steps, batches):
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())
figure.legend(frameon=False, loc="outside lower center", ncols=5)
finished(
    figure,
    "Runs scatter as the root of step / batch; their mean is off in proportion to the step\n"
    "Mini-batch runs at time 1 (root mean square distances), compared with the gradient flow",
    "_errors",
)
plt.show()
