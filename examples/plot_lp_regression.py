r"""
Regression by losses of power p, depth by depth
===============================================

At the best learning rates depth lowers the :math:`\ell_4` loss of a regression with one output, and
not its :math:`\ell_2` loss. Where PyTorch is installed, a second row shows its AdaGrad, which ends
above depth 3 on the :math:`\ell_4` loss, and its Adam, which ends lowest.

.. image:: images/sphx_glr_plot_lp_regression_001.png
   :alt: Losses against steps: depths 2 and 3 end lower than depth 1 on the l_4 loss only
   :class: figures-first
   :target: ../_images/sphx_glr_plot_lp_regression_001.png

The guide tells :doc:`how long a step may be </guide/steps>` and how to :doc:`choose a depth
</guide/depth>`; runs can be spread over :doc:`a cluster </guide/cluster>`. The theory has
:ref:`finite steps <finite-steps>` and :ref:`the formula for one output <special>`. The code uses
`riemdln.DeepLinearMetric` and `riemdln.balanced_layers`.

Run it with ``python examples/plot_lp_regression.py``; it writes ``plot_lp_regression.png`` to the
current folder. The optimizers are those of PyTorch; without it they are left out.
"""

# %%
# The data
# --------
# Arora, Cohen and Hazan (ICML 2018, experiments) train linear networks with one output on the loss
#
# .. math:: E(w) = \frac{1}{p} \, \mathrm{mean} \, |w x - y|^p.
#
# They find that depth makes gradient descent faster if :math:`p = 4`, and not if :math:`p = 2`.
# Here this is repeated on one matrix under the metric :math:`g^N`,
#
# .. math:: w \leftarrow w - \eta \, A_{N,w}(\nabla E(w)),
#
# where :math:`A_{N,w}` turns the gradient into the Riemannian gradient. Each curve has the learning
# rate :math:`\eta` at which its loss ends lowest.
#
# The data are the paper's: the concentration of ethanol from 128 features of 16 gas sensors
# (Vergara et al. 2012; Rodriguez-Lujan et al. 2014). Features and target are standardized. These
# are 1,316 of the 2,565 measurements that the paper has; LICENSE.md beside them says which.

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

import riemdln

try:
    import torch
except ImportError:
    torch = None

# Where no file is run, in a notebook or in the gallery, the current folder is that of the examples.
EXAMPLES = Path(__file__).parent if "__file__" in globals() else Path()
columns = np.loadtxt(EXAMPLES / "data" / "gas_sensor_ethanol.csv.gz", delimiter=",", skiprows=1)
X, y = StandardScaler().fit_transform(columns[:, 2:]), columns[:, 1]
y = (y - y.mean()) / y.std()
print(f"gas sensors, ethanol: {X.shape[0]} samples, {X.shape[1]} features")

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_lp_regression_001_2.png"

# %%
# Descent, many learning rates at once
# ------------------------------------
# The metrics of riemdln take stacks of matrices, so one loop runs all learning rates.

ITERATIONS = 2000


def small_start(features):
    """A small random row, the same for all."""
    w = np.random.default_rng(0).standard_normal((1, features))
    return 0.01 * w / np.linalg.norm(w)


def losses_and_gradients(X, y, p, W):
    """The l_p losses of a stack of rows (r, 1, n), and their gradients."""
    residuals = W[:, 0] @ X.T - y
    weights = np.abs(residuals) ** (p - 2)
    losses = np.mean(weights * residuals**2, axis=1) / p
    return losses, ((weights * residuals) @ X / len(X))[:, None]


def descend(X, y, p, rates, depth):
    """The losses (step, rate) of steepest descent under g^N, infinite once a run diverges."""
    metric = riemdln.DeepLinearMetric(depth)
    W = np.repeat(small_start(X.shape[1])[None], len(rates), axis=0)
    losses = np.full((ITERATIONS + 1, len(rates)), np.inf)
    running = np.arange(len(rates))
    for step in range(ITERATIONS + 1):
        loss, gradient = losses_and_gradients(X, y, p, W)
        bounded = loss < 1e6
        running, W, gradient = running[bounded], W[bounded], gradient[bounded]
        losses[step, running] = loss[bounded]
        W = W - rates[running, None, None] * metric.sharp(W, gradient)
    return losses


def train(X, y, p, rates, depth, optimizer):
    """The same for a network of this depth under one of PyTorch's optimizers."""
    features = X.shape[1]
    # With one output the layers above the first are numbers, so a network fits in one row.
    network = np.concatenate(riemdln.balanced_layers(small_start(features), depth), axis=None)
    networks = torch.tensor(np.tile(network, (len(rates), 1)), requires_grad=True)
    # The steps of these optimizers are proportional to the learning rate, which their memory does
    # not see: all rates share one optimizer of rate one.
    optimizer = getattr(torch.optim, optimizer)([networks], lr=1.0)
    rates = torch.tensor(rates)[:, None]
    losses = np.empty((ITERATIONS + 1, len(rates)))
    for step in range(ITERATIONS + 1):
        W = networks[:, :features] * networks[:, features:].prod(dim=1, keepdim=True)
        with np.errstate(all="ignore"):  # a run that diverges may overflow
            losses[step], gradient = losses_and_gradients(X, y, p, W.detach().numpy()[:, None])
        optimizer.zero_grad()
        W.backward(torch.from_numpy(gradient[:, 0]))
        before = networks.detach().clone()
        optimizer.step()
        networks.data = torch.lerp(before, networks.data, rates)
    return np.nan_to_num(losses, nan=np.inf)


# %%
# The grid of learning rates
# --------------------------
# Each method searches the same grid twice: in steps of a factor of two, and then finely around the
# best. No best rate may lie on the edge of the rates tried. The optimizers keep PyTorch's defaults
# for all but the learning rate.
#
# Curves run in parallel. To spread them over a cluster, connect with
# ``dask.distributed.Client(address)`` and call ``joblib.parallel_config(backend="dask")`` here.
# Ray's backend needs ``return_as="list"`` below.

METHODS = {f"depth {depth}": partial(descend, depth=depth) for depth in (1, 2, 3)}
if torch is None:
    print("PyTorch is not installed: AdaGrad, AdaDelta and Adam are left out.")
else:
    METHODS |= {
        "AdaGrad": partial(train, depth=1, optimizer="Adagrad"),
        "AdaDelta": partial(train, depth=1, optimizer="Adadelta"),
        "Adam": partial(train, depth=1, optimizer="Adam"),
        "Adam, depth 3": partial(train, depth=3, optimizer="Adam"),
    }
# The curves that take longest come first.
CURVES = [(p, method) for method in reversed(METHODS) for p in (4, 2)]
COARSE = 2.0 ** np.arange(-10, 1)


def run_all(rates, title):
    """The losses (step, rate) of all curves, each at its own learning rates."""
    runs = Parallel(n_jobs=-1, return_as="generator")(
        delayed(METHODS[method])(X, y, p, rates[p, method]) for p, method in CURVES
    )
    return dict(zip(CURVES, tqdm(runs, title, len(CURVES), disable=None), strict=True))


def best(losses):
    """Which run ends lowest; of those that end equally low, the one that was lowest on the way."""
    lowest = np.flatnonzero(losses[-1] <= (1 + 1e-4) * losses[-1].min())
    return lowest[np.argmin(losses[:, lowest].mean(axis=0))]


coarse = run_all(dict.fromkeys(CURVES, COARSE), "coarse grid")
fine_rates = {
    key: COARSE[best(losses)] * 2 ** np.linspace(-1, 1, 12)[1:-1] for key, losses in coarse.items()
}
fine = run_all(fine_rates, "fine grid")

rate, curve, diverges = {}, {}, {}
for key in CURVES:
    rates, order = np.unique(np.concatenate([COARSE, fine_rates[key]]), return_index=True)
    losses = np.concatenate([coarse[key], fine[key]], axis=1)[:, order]
    i = best(losses)
    assert 0 < i < len(rates) - 1, f"{key}: the best rate is {rates[i]}, on the edge of the grid"
    rate[key], curve[key] = rates[i], losses[:, i]
    # When a run with the next larger learning rate diverges, or 0 if it does not.
    diverges[key] = np.argmax(np.isinf(losses[:, i + 1]))

# %%
# Which of the paper's claims show
# --------------------------------
# On 1,316 of the gas sensors' 2,565 measurements of ethanol (batches 1 to 6, 8 and 9) all of them
# do. The :math:`\ell_4` loss ends about a quarter lower at depth 2 or 3 than at depth 1, and lower
# than with AdaGrad or AdaDelta; the :math:`\ell_2` loss does not. Adam ends lower on three layers
# than on one. But depth 3 is no better than depth 2, and Adam on one layer ends far lower than
# depth without Adam. Whether depth or AdaDelta ends lower depends on the measurements: without
# batches 1 to 3 it is AdaDelta.

print(f"\nlosses after {ITERATIONS} steps, and the best learning rates:")
print(f"{'':16}{'l_2':18}l_4")
for method in METHODS:
    two, four = (f"{curve[p, method][-1]:.4f} ({rate[p, method]:.2g})" for p in (2, 4))
    print(f"{method:16}{two:18}{four}")


def lower(p, method, other):
    """Whether one method ends at least 1 % lower than another."""
    return curve[p, method][-1] < 0.99 * curve[p, other][-1]


claims = {
    "l_4 ends lower at depth 3 than at depth 1": lower(4, "depth 3", "depth 1"),
    "l_2 does not end lower at depth 3 than at depth 1": not lower(2, "depth 3", "depth 1"),
}
if torch is not None:
    claims |= {
        "l_4 ends lower at depth 3 than with AdaGrad": lower(4, "depth 3", "AdaGrad"),
        "l_4 ends lower at depth 3 than with AdaDelta": lower(4, "depth 3", "AdaDelta"),
        "l_4 ends lower with Adam at depth 3 than at depth 1": lower(4, "Adam, depth 3", "Adam"),
    }
print()
for claim, shows in claims.items():
    print(f"{'shows:' if shows else 'does not show:':15}{claim}")
assert all(shows for claim, shows in claims.items() if "AdaDelta" not in claim)
for depth in ("depth 2", "depth 3"):
    assert 0.7 < curve[4, depth][-1] / curve[4, "depth 1"][-1] < 0.8
assert not lower(4, "depth 3", "depth 2")
assert not lower(2, "depth 2", "depth 1")
if torch is not None:
    assert all(
        lower(p, "Adam", method) for p in (2, 4) for method in METHODS if "Adam" not in method
    )

# %%
# The network itself
# ------------------
# Gradient descent on the layers of a network with the same learning rates ends at the same losses.
# A step of size :math:`\eta` moves the layers and the one matrix apart by only :math:`O(\eta^2)`.


def descend_layers(p, depth, rate):
    """The losses along gradient descent on the layers, and the end-to-end matrix at the end."""
    layers, losses = riemdln.balanced_layers(small_start(X.shape[1]), depth), []
    for _ in range(ITERATIONS + 1):
        w = riemdln.end_to_end(layers)
        loss, gradient = losses_and_gradients(X, y, p, w[None])
        losses.append(loss[0])
        gradients = riemdln.layer_gradients(layers, gradient[0])
        layers = [W_j - rate * G_j for W_j, G_j in zip(layers, gradients, strict=True)]
    return np.array(losses), w


def stiffness(p, depth, w):
    """The largest eigenvalue of A_w D^2 E(w): gradient descent is stable up to a rate of 2 / it."""
    weights = (p - 1) * np.abs(X @ w[0] - y) ** (p - 2) / len(X)
    hessian = (weights * X.T) @ X
    W = np.tile(w, (len(hessian), 1, 1))
    columns = riemdln.DeepLinearMetric(depth).sharp(W, hessian[:, None])[:, 0]
    return np.linalg.eigvals(columns).real.max()


print()
layers, ends = {}, {}
for p in (2, 4):
    for depth in (1, 3):
        key = p, f"depth {depth}"
        layers[key], ends[key] = descend_layers(p, depth, rate[key])
        by_layers, by_matrix = layers[key][-1], curve[key][-1]
        print(f"l_{p}, depth {depth}: ends at {by_layers:.4f} (layers), {by_matrix:.4f} (matrix)")
        assert abs(by_layers / by_matrix - 1) < 0.02

# %%
# Why depth helps one loss and not the other
# ------------------------------------------
# Near a minimum steps are stable while the learning rate times the largest eigenvalue of
# :math:`A_{N,w} \nabla^2 E` is less than two. For the :math:`\ell_2` loss at depth 1 that product
# is constant, and the best rate is close to the limit all along. For the :math:`\ell_4` loss it is
# large at the start, where the residuals are large, and falls. At depth 1 the next larger rate of
# the grid diverges within a few steps, though it would be stable later. Depth takes small steps
# near zero, so that the end limits the rate and the start does not.

at_end = {}
for (p, method), w in ends.items():
    depth = int(method[-1])
    at_start = rate[p, method] * stiffness(p, depth, small_start(X.shape[1]))
    at_end[p, method] = rate[p, method] * stiffness(p, depth, w)
    after = diverges[p, method]
    print(
        f"l_{p}, {method}: rate times eigenvalue {at_start:.2g} at the start, "
        f"{at_end[p, method]:.2g} at the end; the next larger rate "
        + (f"diverges after {after} steps" if after else "does not diverge")
    )
assert at_end[2, "depth 1"] < 2
assert at_end[4, "depth 1"] < at_end[4, "depth 3"]

# %%
# The figure
# ----------
# Lines are descent on one matrix under :math:`g^N`, dots the layers of a network of depth 3.

STYLES = {
    "depth 1": {"color": "#000000"},
    "depth 2": {"color": "#0072B2"},
    "depth 3": {"color": "#D55E00"},
    "AdaGrad": {"color": "#56B4E9", "linestyle": "-."},
    "AdaDelta": {"color": "#009E73", "linestyle": ":"},
    "Adam": {"color": "#000000", "linestyle": "--"},
    "Adam, depth 3": {"color": "#D55E00", "linestyle": "--"},
}
rows = {"": [method for method in METHODS if method.startswith("depth")]}
if torch is not None:
    rows["with PyTorch's optimizers"] = [method for method in METHODS if method != "depth 2"]
RESULTS = {2: "depth does not end lower", 4: "depth ends lower"}
figure, axes = plt.subplots(
    len(rows),
    2,
    figsize=(9, 1.8 + 3.7 * len(rows)),
    layout="constrained",
    sharex=True,
    sharey="col",
    squeeze=False,
)
dots = np.unique(np.geomspace(1, ITERATIONS, 20).astype(int))
for p, column in zip((2, 4), axes.T, strict=True):
    for panel, (row, methods) in zip(column, rows.items(), strict=True):
        for method in methods:
            panel.loglog(curve[p, method], linewidth=1.4, **STYLES[method])
        panel.set_title(f"$\\ell_{p}$ loss: {row or RESULTS[p]}", fontsize=11)
        panel.set(ylabel=f"loss, mean of $|w x - y|^{p} / {p}$", xlim=(1, ITERATIONS))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.25)
    network = layers[p, "depth 3"][dots]
    column[0].plot(dots, network, "o", color=STYLES["depth 3"]["color"], markersize=4)
    column[-1].set_xlabel(r"step, at the best learning rate $\eta$ of each curve")
handles = [Line2D([], [], label=method, **STYLES[method]) for method in METHODS]
network = {"color": STYLES["depth 3"]["color"], "marker": "o", "markersize": 4, "linestyle": ""}
handles.insert(3, Line2D([], [], label="the three layers, depth 3", **network))
figure.legend(
    handles=handles,
    title=(
        "Ethanol $y$ from 128 features $x$ of gas sensors, 1,316 samples. Steps of depth $N$:\n"
        r"$w \leftarrow w - \eta \, \|w\|^{2-2/N} (p + (N-1) \, \mathrm{Pr}_w p)$, "
        r"with $p$ the gradient and $\mathrm{Pr}_w p$ its part along $w$."
    ),
    loc="outside lower center",
    ncols=4,
    frameon=False,
)
figure.suptitle("Depths 2 and 3 end lower than depth 1 on the $\\ell_4$ loss only")
figure.savefig("plot_lp_regression.png", dpi=150)
plt.show()
