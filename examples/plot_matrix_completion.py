r"""
Matrix completion: depth prefers low rank
=========================================

Seven of ten entries in each row and column of a matrix of rank 2 are observed, and gradient flow
fits them from a small multiple of the identity. Nothing in the loss speaks of the others. Under the
Euclidean metric they stay where they are; under :math:`g^N` they come out nearly right, the more so
the greater the depth, because the flow passes through matrices of low rank (Arora, Cohen, Hu and
Luo 2019; Cohen, Menon and Veraszto 2023, who also go to infinite depth).

Cohen, Menon and Veraszto propose that this is a bias towards high volume. There are two volumes:
that of the metric on matrices, and that of all balanced layers over one matrix, whose logarithm is
the entropy of Menon and Yu (2025),

.. math::

    \ln \sqrt{\det g^N_W} = -\tfrac12 \sum_i \ln \theta_N(s_i, s_i) - 2 S_N(W),
    \qquad S_N(W) = \tfrac12 \sum_{i<j} \ln \theta_N(s_i, s_j).

They go opposite ways: among matrices that fit the same entries, those which depth chooses have the
higher volume and the lower entropy.

Run it with ``python examples/plot_matrix_completion.py``; it writes ``plot_matrix_completion.png``.
"""

# %%
# Three random matrices
# ---------------------
# Their two nonzero singular values are 3 and 2. The effective rank (Roy and Vetterli 2007) is
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

# %%
# The flow at four depths
# -----------------------
# All runs end where the training loss has come down to the same level. On the way there depth
# does not help always: while its loss is still large, a deep run can be farther from the unobserved
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
# entropy. The two say the same here, since the entropy is what the volume mostly consists of.

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
# The figure
# ----------
# Training loss falls from left to right.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#CC79A7"], strict=True))
LABELS = {1: "depth 1 (Euclidean)", 2: "depth 2", 3: "depth 3", np.inf: r"depth $\infty$"}
figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
(waiting, error, rank), (values, along, chosen) = axes

for depth, colour in COLOURS.items():
    for k, flow in enumerate(runs[depth]):
        losses, s = flow.costs / flow.costs[0], flow.singular_values
        # The first matrix stands out, so that its run can be followed from panel to panel.
        style = {"color": colour, "alpha": 0.4 if k else 1.0, "linewidth": 1.0 if k else 2.0}
        half = np.interp(-0.5, -losses, flow.times)
        waiting.semilogy(flow.times / half, losses, label=None if k else LABELS[depth], **style)
        error.loglog(losses, errors[depth][k], **style)
        rank.semilogx(losses, riemdln.effective_rank(s), **style)
        values.semilogy(np.arange(1, SIZE + 1), s[-1], ".-", **style)
        if depth > 1:
            volumes, entropies = changes[depth][k]
            along.semilogx(losses, volumes, **style)
            along.semilogx(losses, entropies, "--", **style)
rank.axhline(true_ranks.mean(), color="0.5", linestyle=":", label="the targets")
values.plot([1, 2], [3, 2], "x", color="0.4", markersize=9, label="the targets")
along.plot([], [], color="0.5", label="log-volume")
along.plot([], [], "--", color="0.5", label="entropy")

for place, metric in enumerate(METRICS.values()):
    for shift, depth in enumerate(DEPTHS[1:]):
        x = np.full(len(completions), place + 0.2 * (shift - 1))
        gains = metric.log_volume(ends[depth]) - metric.log_volume(ends[1])
        chosen.plot(x, gains, "o", color=COLOURS[depth], markersize=5)
        gains = metric.entropy(ends[depth]) - metric.entropy(ends[1])
        chosen.plot(x, gains, "o", color=COLOURS[depth], markersize=5, markerfacecolor="none")
chosen.plot([], [], "o", color="0.5", markersize=5, label="log-volume")
chosen.plot([], [], "o", color="0.5", markersize=5, markerfacecolor="none", label="entropy")
chosen.axhline(0, color="0.5", linewidth=0.8)

waiting.set(
    title="The deeper, the longer the wait\nand the steeper the fall (three matrices each)",
    xlabel="time, in units of the time to half the training loss",
    ylabel="training loss / its start",
    xlim=(0, 12),
)
error.set(
    title="Depth finds the entries that are not observed;\nat depth 1 they never move",
    ylabel="relative error on the unobserved entries",
    yticks=[0.05, 0.1, 0.2, 0.5, 1],
    yticklabels=["0.05", "0.1", "0.2", "0.5", "1"],
)
error.minorticks_off()
rank.set(
    title="Deep runs pass through low rank\nand end near the rank of the target",
    ylabel="effective rank",
)
values.set(
    title="At the same training loss\nthe deeper run is nearer to rank 2",
    xlabel="i",
    ylabel="singular value $s_i$ at the end of the run",
    xticks=range(1, SIZE + 1),
)
along.set(
    title="At a given norm a run gains volume\nand loses entropy",
    ylabel=r"change of those of $W / \|W\|$ since the start",
)
chosen.set(
    title="Among matrices that fit, depth chooses\nhigh volume and low entropy",
    xlabel="depth of the metric that measures",
    ylabel="end of the run, less that of depth 1",
    xticks=range(len(METRICS)),
    xticklabels=["2", "3", r"$\infty$"],
)
for panel in (error, rank, along):
    panel.invert_xaxis()
    panel.set_xlabel("training loss / its start")
for panel in axes.flat:
    panel.grid(alpha=0.25)
for panel in (waiting, rank, values, chosen):
    panel.legend(frameon=False)
along.legend(frameon=False, loc=(0.65, 0.34))
figure.suptitle(
    "Completion of three 10 x 10 matrices of rank 2 by the flow of $g^N$ (bold: one of the three)",
    fontsize=14,
)
figure.savefig("plot_matrix_completion.png", dpi=150)
plt.show()
