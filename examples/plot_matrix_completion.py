r"""
Matrix completion: depth prefers low rank
=========================================

Fitted from a small start to seven of ten entries of a matrix of rank 2, the flow of :math:`g^N`
finds the other entries too. The greater the depth, the smaller is the error, because the flow
passes through low rank.

.. image:: images/sphx_glr_plot_matrix_completion_001.png
   :alt: By depth: training loss, error on the other entries, effective rank, singular values
   :class: figures-first
   :target: ../_images/sphx_glr_plot_matrix_completion_001.png

.. image:: images/sphx_glr_plot_matrix_completion_002.png
   :alt: Log-volume rises and entropy falls, along each run and from depth to depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_matrix_completion_002.png

The guide tells what the metric does at :doc:`low rank </guide/low_rank>` and how to complete a
matrix at :doc:`fixed rank </guide/fixed_rank>`. The theory has :ref:`volume and entropy <volume>`.
The code uses `riemdln.gradient_flow`, `riemdln.Metric.log_volume` and
`riemdln.DeepLinearMetric.entropy`.

Run it with ``python examples/plot_matrix_completion.py``; it writes ``plot_matrix_completion.png``
and ``plot_matrix_completion_volume.png``.
"""

# %%
# Three random matrices
# ---------------------
# In each row and column seven of ten entries are observed, and nothing in the loss speaks of the
# others. Under the Euclidean metric they stay as they are. Under :math:`g^N` they come out nearly
# right (Arora, Cohen, Hu and Luo 2019; Cohen, Menon and Veraszto 2023, who also go to infinite
# depth). The two nonzero singular values are 3 and 2. The effective rank (Roy and Vetterli 2007) is
# exp(H), where H is the entropy of the singular values divided by their sum: nearly 2 for these
# matrices, and 10 for the identity.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln
from riemdln.kernels import DeepLinearKernel

SIZE = 10
# The first and last times that are drawn: small starts make deeper flows wait longer.
SPANS = {1: (0.1, 5), 2: (0.5, 25), 3: (1, 25), np.inf: (30, 270)}
LEVEL = 2e-4  # runs end where the training loss has come down to this times its start
START = 0.01 * np.eye(SIZE)


def random_completion(seed):
    """A matrix of rank 2, and which of its entries are observed: 7 in each row and column."""
    rng = np.random.default_rng(seed)
    left, right = np.linalg.qr(rng.standard_normal((2, SIZE, 2)))[0]
    i = np.arange(SIZE)
    observed = (i[:, None] + i) % SIZE < 7
    return left * [3, 2] @ right.T, observed[rng.permutation(SIZE)][:, rng.permutation(SIZE)]


completions = [random_completion(seed) for seed in range(3)]

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_matrix_completion_001_4.png"

# %%
# The flow at four depths
# -----------------------
# All runs end where the training loss has come down to the same level. On the way there depth
# does not always help: while its loss is still large, a deep run can be farther from the unobserved
# entries than it was at the start. The kernel at infinite depth is the limit of
# :math:`\theta_N / N`, so its flow takes N times as long as that of a great depth N.


def run(depth, target, observed):
    """The flow until its training loss has come down to the level."""
    manifold = riemdln.FullRank(SIZE, SIZE, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum(observed * (W - target) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    times = np.concatenate([[0.0], np.geomspace(*SPANS[depth], 180)])
    level = LEVEL * problem.cost(START)
    flow = riemdln.gradient_flow(problem, START, times, rtol=1e-6, atol=1e-9, cost_tolerance=level)
    assert flow.message == "reached the cost tolerance"
    return flow


def relative_error(points, target, observed):
    """The error on the entries that are not observed, relative to them."""
    differences = (points - target)[:, ~observed]
    return np.linalg.norm(differences, axis=-1) / np.linalg.norm(target[~observed])


DEPTHS = list(SPANS)
runs = {depth: [run(depth, *completion) for completion in completions] for depth in DEPTHS}
errors, ends = {}, {}
for depth in DEPTHS:
    points = [flow.points for flow in runs[depth]]
    errors[depth] = list(map(relative_error, points, *zip(*completions, strict=True)))
    ends[depth] = np.array([path[-1] for path in points])
last_errors = np.array([[error[-1] for error in errors[depth]] for depth in DEPTHS])
last_ranks = np.array(
    [riemdln.effective_rank([flow.singular_values[-1] for flow in runs[depth]]) for depth in DEPTHS]
)
for depth, error, rank in zip(DEPTHS, last_errors, last_ranks, strict=True):
    print(
        f"depth {depth}: relative error on the unobserved entries {np.round(error, 3)}, effective "
        f"rank {np.round(rank, 2)}"
    )
true_ranks = riemdln.effective_rank([np.linalg.svd(target)[1] for target, _ in completions])
print(f"true effective rank {np.round(true_ranks, 2)}")

# The Euclidean flow does not touch what is not observed.
for (_, observed), flow in zip(completions, runs[1], strict=True):
    assert np.all(flow.points[:, ~observed] == START[~observed])
# Each step in depth brings the unobserved entries and the effective rank nearer to the target.
assert np.all(np.diff(last_errors, axis=0) < 0)
assert np.all(np.diff(last_ranks, axis=0) < 0)
assert np.all(last_ranks[2:] - true_ranks < 0.5)

# %%
# Volume and entropy
# ------------------
# Cohen, Menon and Veraszto propose that depth prefers high volume. There are two volumes: that of
# the metric on matrices, and that of all balanced layers over one matrix, whose logarithm is the
# entropy of Menon and Yu (2025),
#
# .. math::
#
#     \ln \sqrt{\det g^N_W} = -\tfrac12 \sum_i \ln \theta_N(s_i, s_i) - 2 S_N(W),
#     \qquad S_N(W) = \tfrac12 \sum_{i<j} \ln \theta_N(s_i, s_j).
#
# Both depend on the norm of W in a trivial way: for each unit of :math:`\ln \|W\|` the log-volume
# falls by :math:`n^2 (1 - 1/N)`. So along a run from a small start it falls, and the entropy rises.
# At a given norm it is the other way round: that of :math:`W / \|W\|` rises, and its entropy falls.

METRICS = {depth: riemdln.DeepLinearMetric(depth) for depth in DEPTHS[1:]}
basis = np.eye(SIZE**2).reshape(-1, SIZE, SIZE)
changes = {}
for depth, metric in METRICS.items():
    for flow in runs[depth]:
        volumes, entropies = metric.log_volume(flow.points), metric.entropy(flow.points)
        s = flow.singular_values
        diagonal = -np.sum(np.log(DeepLinearKernel(depth)(s, s)), axis=-1) / 2
        assert np.allclose(volumes, diagonal - 2 * entropies)
        # The definition: the determinant of A_W as a matrix of n^2 rows and columns.
        sharp = metric.sharp(flow.points[-1], basis).reshape(SIZE**2, SIZE**2)
        assert np.isclose(volumes[-1], -np.linalg.slogdet(sharp).logabsdet / 2)
        assert volumes[-1] < volumes[0]
        assert entropies[-1] > entropies[0]
    units = [
        flow.points / np.linalg.norm(flow.points, axis=(1, 2), keepdims=True)
        for flow in runs[depth]
    ]
    changes[depth] = [
        (metric.log_volume(W) - metric.log_volume(W[0]), metric.entropy(W) - metric.entropy(W[0]))
        for W in units
    ]
    assert all(volumes[-1] > 0 and entropies[-1] < 0 for volumes, entropies in changes[depth])

# %%
# So what does depth choose among the matrices that fit the observed entries? In whichever
# :math:`g^N` they are measured, the runs of greater depth have come to higher volume and lower
# entropy. The two say the same here, since the entropy is the largest part of the log-volume.

for depth, metric in METRICS.items():
    volumes = np.array([metric.log_volume(ends[end]) for end in DEPTHS])
    entropies = np.array([metric.entropy(ends[end]) for end in DEPTHS])
    for name, values in (("log-volume", volumes), ("entropy", entropies)):
        print(
            f"{name} of depth {depth} at the ends of the runs of depth 1, 2, 3, inf (mean): "
            f"{np.round(values.mean(axis=1), 1)}"
        )
    assert np.all(np.diff(volumes, axis=0) > 0)
    assert np.all(np.diff(entropies, axis=0) < 0)

# %%
# The figures
# -----------
# Training loss falls from left to right. The run of the first of the three matrices is drawn bold
# in all panels.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#CC79A7"], strict=True))
LABELS = {1: "depth 1", 2: "depth 2", 3: "depth 3", np.inf: r"depth $\infty$"}


def finish(figure, panels, title, name):
    """Give a figure its grid, legend and title, and save it."""
    for panel in panels:
        panel.title.set_fontsize(11)
        panel.grid(alpha=0.25)
    figure.legend(frameon=False, loc="outside lower center", ncols=6)
    figure.suptitle(title)
    figure.savefig(name, dpi=150)


figure, axes = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
(waiting, error), (rank, values) = axes
for depth, colour in COLOURS.items():
    for k, flow in enumerate(runs[depth]):
        losses, s = flow.costs / flow.costs[0], flow.singular_values
        style = {"color": colour, "alpha": 0.4 if k else 1.0, "linewidth": 1.0 if k else 2.0}
        half = np.interp(-0.5, -losses, flow.times)
        waiting.semilogy(flow.times / half, losses, label=None if k else LABELS[depth], **style)
        error.loglog(losses, errors[depth][k], **style)
        rank.semilogx(losses, riemdln.effective_rank(s), **style)
        values.semilogy(np.arange(1, SIZE + 1), s[-1], ".-", **style)
rank.axhline(true_ranks.mean(), color="0.5", linestyle=":")
values.plot([1, 2], [3, 2], "x:", color="0.5", markersize=9, label="target")
for depth, k, offset in ((1, 6, (4, 6)), (np.inf, 3, (-20, -16))):
    end = runs[depth][0].singular_values[-1, k - 1]
    values.annotate(LABELS[depth], (k, end), offset, textcoords="offset points")
values.plot([], [], color="0.5", linewidth=1, alpha=0.6, label="two more targets")
waiting.set(
    title="All runs fit the observed entries",
    xlabel="time / time to half the training loss",
    ylabel="training loss / its start",
    xlim=(0, 12),
)
error.set(
    title="Deep runs find the hidden entries too",
    xlabel="training loss / its start",
    ylabel="relative error on the hidden entries",
    yticks=[0.05, 0.1, 0.2, 0.5, 1],
    yticklabels=["0.05", "0.1", "0.2", "0.5", "1"],
)
error.minorticks_off()
rank.set(
    title="Deep runs pass through low rank",
    xlabel="training loss / its start",
    ylabel="effective rank of W, from 1 to 10",
)
values.set(
    title="The deeper, the nearer to rank 2 they end",
    xlabel="number i of the singular value",
    ylabel="singular value $s_i$ at the end",
    xticks=range(1, SIZE + 1),
)
error.invert_xaxis()
rank.invert_xaxis()
finish(
    figure,
    axes.flat,
    "The deeper the network, the better its flow finds entries that it does not see\n"
    r"Targets: three random $10 \times 10$ matrices of rank 2, 70 of 100 entries observed",
    "plot_matrix_completion.png",
)

# %%
# Volume and entropy along each run at a given norm, and at its end, less those where the run of
# depth 1 ends. Each of the three metrics measures all runs.

figure, (along, chosen) = plt.subplots(1, 2, figsize=(9, 5), layout="constrained")
for depth in DEPTHS[1:]:
    along.plot([], [], color=COLOURS[depth], label=LABELS[depth])
    for k, flow in enumerate(runs[depth]):
        style = {"color": COLOURS[depth], "alpha": 0.4 if k else 1.0}
        volumes, entropies = changes[depth][k]
        along.semilogx(flow.costs / flow.costs[0], volumes, **style)
        along.semilogx(flow.costs / flow.costs[0], entropies, "--", **style)
for place, metric in enumerate(METRICS.values()):
    for shift, depth in enumerate(DEPTHS[1:]):
        x = np.full(len(completions), place + 0.2 * (shift - 1))
        gains = metric.log_volume(ends[depth]) - metric.log_volume(ends[1])
        chosen.plot(x, gains, "o", color=COLOURS[depth], markersize=5)
        gains = metric.entropy(ends[depth]) - metric.entropy(ends[1])
        chosen.plot(x, gains, "o", color=COLOURS[depth], markersize=5, markerfacecolor="none")
for line, face, name in (
    ("o-", "0.5", r"log-volume $\ln \sqrt{\det g^N_W}$"),
    ("o--", "none", "entropy $S_N(W)$"),
):
    along.plot([], [], line, color="0.5", markersize=5, markerfacecolor=face, label=name)
chosen.axhline(0, color="0.5", linewidth=0.8)
along.set(
    title="Along a run, W scaled to norm 1",
    xlabel="training loss / its start",
    ylabel="change since the start of the run",
)
along.invert_xaxis()
chosen.set(
    title="At the ends of the runs",
    xlabel="depth N of the metric $g^N$ that measures",
    ylabel="difference from the end of depth 1",
    xticks=range(len(METRICS)),
    xticklabels=["2", "3", r"$\infty$"],
)
finish(
    figure,
    (along, chosen),
    "Among matrices that fit, depth chooses high volume and low entropy\n"
    "Colours: the depth of the run. Three targets, 70 of 100 entries observed\n"
    "$g^N$: the metric that N balanced layers give their product W",
    "plot_matrix_completion_volume.png",
)
plt.show()
