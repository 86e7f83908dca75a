r"""
Ratings: depth makes up for a rank that is set too large
========================================================

Ratings of items by users are predicted from few of them, by a matrix of low rank. If the rank is
set too large, depth 1 fits noise, and depth 3 is almost as good as at the best rank.

.. image:: images/sphx_glr_plot_ratings_001.png
   :alt: Test errors by rank, and by iteration at rank 20, at depths 1, 2 and 3
   :class: figures-first
   :target: ../_images/sphx_glr_plot_ratings_001.png

.. image:: images/sphx_glr_plot_ratings_002.png
   :alt: Singular values at the least validation error, and training error by time
   :class: figures-first
   :target: ../_images/sphx_glr_plot_ratings_002.png

A matrix of ratings, users by items, is known in few of its entries. To predict the others it is
completed at a rank :math:`k`,

.. math:: \min_{\operatorname{rank} W = k} \; E(W),
          \qquad E(W) = \tfrac12 \sum_{(i,j) \in \Omega} (W_{ij} - a_{ij})^2,

as Vandereycken (SIAM J. Optim. 2013) does with the Euclidean metric, pymanopt's
``FixedRankEmbedded``. ``FixedRank`` has the metric :math:`g^N` of a network of depth :math:`N` with
a layer of width :math:`k`; at depth 1 the two are the same geometry. This example runs them at
depths 1, 2 and 3 from one small start, stops each run where the error on validation entries is
least, and compares the errors on test entries.

It shows the implicit regularization of depth (Arora, Cohen, Hu and Luo, NeurIPS 2019): from a small
start the large singular values grow first, the more so the deeper. With a rank that is chosen well,
depth gains nothing here.

The guide has a page on :doc:`matrices of fixed rank </guide/fixed_rank>`, and the theory a section
on :ref:`the flow of singular values <flow>`. The classes are `riemdln.FixedRank` and
`riemdln.MatrixCompletion`.

Run it with ``python examples/plot_ratings.py``; it writes ``plot_ratings.png`` and
``plot_ratings_runs.png``. The ratings are synthetic. ``--data PATH`` reads others, a line for each,
of user, item and rating, separated by commas, tabs or ``::``. Further columns, such as a timestamp,
are not read, and a first line whose rating is no number is a header. Users and items may be called
anything and are numbered in the order in which they appear. If a user rates an item more than once,
the last rating counts.
"""

# %%
# The ratings
# -----------
# Without a file: 2,000 users, 1,000 items and 20 tastes of decreasing weight. Some users rate much
# and some items are rated much, by power laws; many rows have few entries.

import argparse
import csv
import math
import sys
import tracemalloc
from functools import partial
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions
from scipy.sparse import coo_array
from threadpoolctl import threadpool_limits

import riemdln


def read_ratings(path):
    """User, item and rating of each entry, and the numbers of users and items (see above)."""
    users, items, rated = {}, {}, {}
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = next((s for s in ("::", "\t", ",") if s in first), ",")
        lines = (line.replace("::", "\t") if separator == "::" else line for line in file)
        rows = csv.reader(lines, delimiter="," if separator == "," else "\t")
        try:
            for row in filter(None, rows):
                if len(row) < 3 or not all(field.strip() for field in row[:3]):
                    raise ValueError(f"expected user, item and rating, got {row}")
                user, item, rating = (field.strip() for field in row[:3])
                try:
                    value = float(rating)
                except ValueError:
                    if rows.line_num == 1:
                        continue
                    raise ValueError(f"the rating {rating!r} is not a number") from None
                if not math.isfinite(value):
                    raise ValueError(f"the rating {rating!r} is not finite")
                entry = users.setdefault(user, len(users)), items.setdefault(item, len(items))
                rated[entry] = value
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    if min(len(users), len(items)) <= max(RANKS):
        raise ValueError(
            f"{path}: ranks up to {max(RANKS)} need more users and items than that, got "
            f"{len(users)} users and {len(items)} items"
        )
    return *np.array(list(rated)).T, np.array(list(rated.values())), (len(users), len(items))


def synthetic_ratings(count=100_000, users=2000, items=1000, tastes=20):
    """The same, made up."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, tastes + 1)
    weights *= 0.7 / np.linalg.norm(weights)
    scores = 3.5 + 0.4 * rng.standard_normal((users, 1)) + 0.5 * rng.standard_normal(items)
    scores += rng.standard_normal((users, tastes)) * weights @ rng.standard_normal((tastes, items))
    scores += 0.7 * rng.standard_normal((users, items))
    activity, popularity = ((1 + np.arange(size) / 20) ** -0.8 for size in (users, items))
    chances = np.outer(activity, popularity).ravel()
    chosen = rng.choice(users * items, count, replace=False, p=chances / chances.sum())
    ratings = np.clip(np.round(scores.ravel()[chosen]), 1, 5)
    return *np.divmod(chosen, items), ratings, (users, items)


RANKS = [2, 3, 5, 10, 20]
parser = argparse.ArgumentParser(description="Completion of a matrix of ratings")
parser.add_argument("--data", metavar="PATH", help="lines of user, item, rating; see above")
# A notebook has arguments of its own.
arguments = parser.parse_args(sys.argv[1:] if "__file__" in globals() else [])
if arguments.data is None:
    name = "synthetic data"
    i, j, ratings, shape = synthetic_ratings()
else:
    name = Path(arguments.data).name
    try:
        i, j, ratings, shape = read_ratings(arguments.data)
    except (OSError, ValueError) as error:
        parser.error(str(error))

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_ratings_001_1.png"

# %%
# What is completed
# -----------------
# 80 % of the ratings are for training, 10 % for validation and 10 % for test. The training ratings
# give a mean for each user and each item, drawn towards zero where they are few. The rest, rating
# less means, is completed. It starts near zero, so an entry that is not observed starts at the
# means.

rng = np.random.default_rng(0)
train, validation, test = np.split(
    rng.permutation(len(ratings)), [int(0.8 * len(ratings)), int(0.9 * len(ratings))]
)
overall, user_means, item_means = ratings[train].mean(), np.zeros(shape[0]), np.zeros(shape[1])
for _ in range(10):
    for index, means, others in (
        (j[train], item_means, user_means[i[train]]),
        (i[train], user_means, item_means[j[train]]),
    ):
        sums = np.bincount(index, ratings[train] - overall - others, len(means))
        means[:] = sums / (np.bincount(index, minlength=len(means)) + 5)
unexplained = ratings - overall - user_means[i] - item_means[j]


def entries(part):
    return coo_array((unexplained[part], (i[part], j[part])), shape=shape)


completion = riemdln.MatrixCompletion(entries(train), test=entries(test))
validated = riemdln.MatrixCompletion(entries(train), test=entries(validation))
error_of_means = np.sqrt(np.mean(unexplained[test] ** 2))
print(f"{name}: {len(ratings)} ratings of {shape[1]} items by {shape[0]} users")
print(f"test error (root mean square) of the means: {error_of_means:.4f}")

# %%
# Depth 1 is FixedRankEmbedded
# ----------------------------
# One problem serves both classes. The start is the spectral one, made 100 times smaller: the
# smaller the start, the more depth prefers low rank.
#
# A vector transport of ``FixedRankEmbedded`` makes an array as large as the whole matrix.

GEOMETRIES = {"FixedRankEmbedded": lambda k: FixedRankEmbedded(*shape, k)} | {
    f"depth {depth}": partial(riemdln.FixedRank, *shape, metric=riemdln.DeepLinearMetric(depth))
    for depth in (1, 2, 3)
}
DEPTHS = ["depth 1", "depth 2", "depth 3"]
LARGE = max(RANKS)


def small_start(k):
    spectral = completion.spectral_point(k, rng=0)
    return spectral._replace(s=1e-2 * spectral.s)


start, spectral = small_start(LARGE), completion.spectral_point(LARGE, rng=0)
print(
    f"test error of the spectral start: {completion.test_error(spectral):.4f}, "
    f"100 times smaller: {completion.test_error(start):.4f}"
)

gradients, megabytes = {}, {}
for geometry in ("FixedRankEmbedded", "depth 1"):
    manifold = GEOMETRIES[geometry](k=LARGE)
    gradients[geometry] = completion.problem(manifold).riemannian_gradient(start)
    tracemalloc.start()
    manifold.transport(start, start, gradients[geometry])
    megabytes[geometry] = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
difference = manifold.norm(start, gradients["depth 1"] - gradients["FixedRankEmbedded"])
difference /= manifold.norm(start, gradients["depth 1"])
print(f"relative difference of their gradients at the start: {difference:.0e}")
print(
    f"memory of a transport: FixedRankEmbedded {megabytes['FixedRankEmbedded']:.1f} MB, FixedRank "
    f"{megabytes['depth 1']:.1f} MB (the matrix has {8e-6 * shape[0] * shape[1]:.1f} MB)"
)

# %%
# Runs at a rank that is too large
# --------------------------------
# The validation error is least early on; after that all runs fit noise. At rank 20 the deeper run
# has the lower test error there, by steepest descent and by conjugate gradients. It takes deeper
# runs more iterations, each of which takes about as long as at depth 1.
#
# By conjugate gradients the runs of ``FixedRankEmbedded`` and depth 1 agree to the end, but an
# iteration of ``FixedRankEmbedded`` takes longer, since it transports. Steepest descent does not
# transport and takes as long in both. But it multiplies rounding errors, so that there the two
# agree for some 30 iterations only.

ITERATIONS = 40


@threadpool_limits.wrap(limits=1)  # one core, so that times compare
def solve(optimizer, geometry, k, iterations=ITERATIONS):
    problem = completion.problem(GEOMETRIES[geometry](k=k))
    optimizer = optimizer(max_iterations=iterations, verbosity=0, log_verbosity=1)
    return optimizer.run(problem, initial_point=small_start(k))


class Run:
    """Errors and seconds along a run; `stop` is where the validation error is least."""

    def __init__(self, optimizer, geometry, k):
        log = solve(optimizer, geometry, k).log["iterations"]
        self.seconds = np.array(log["time"]) - log["time"][0]
        self.train = np.sqrt(2 * np.array(log["cost"]) / len(train))
        self.test = np.array([completion.test_error(point) for point in log["point"]])
        self.stop = np.argmin([validated.test_error(point) for point in log["point"]])
        self.singular_values = log["point"][self.stop].s

    def until(self, level):
        """After how many iterations and seconds the training error is below a level."""
        reached = np.flatnonzero(self.train < level)
        return (reached[0], self.seconds[reached[0]]) if len(reached) else (np.nan, np.nan)


level = 0.75 * completion.train_error(start)
print(f"\nrank {LARGE}{'least validation error':>47}{f'training error {level:.2f}':>25}   in all")
print(f"{'':32}iteration    train     test{'iteration':>15}   seconds  seconds")
runs = {}
for optimizer in (SteepestDescent, ConjugateGradient):
    for geometry in GEOMETRIES:
        method = optimizer.__name__, geometry
        run = runs[method] = Run(optimizer, geometry, LARGE)
        iteration, seconds = run.until(level)
        print(
            f"{method[0]:19}{geometry:17}{run.stop:5}{run.train[run.stop]:9.4f}"
            f"{run.test[run.stop]:9.4f}{iteration:15.0f}{seconds:10.2f}{run.seconds[-1]:9.2f}",
            flush=True,
        )

# %%
# Trust regions need the Hessian. ``FixedRank`` has it at every depth, ``FixedRankEmbedded`` does
# not. For the same training error they need about as many iterations as conjugate gradients or
# fewer, but more time.

print()
trust_regions = {}
for geometry in DEPTHS:
    result = solve(TrustRegions, geometry, LARGE, iterations=8)
    error = completion.train_error(result.point)
    trust_regions[geometry] = result.time, error
    iteration, seconds = runs["ConjugateGradient", geometry].until(error)
    print(
        f"TrustRegions, {geometry}: training error {error:.4f} and test error "
        f"{completion.test_error(result.point):.4f} after {result.iterations} iterations, "
        f"{result.time:.2f} s (conjugate gradients: {iteration:.0f} iterations, {seconds:.2f} s)"
    )

# %%
# Which rank?
# -----------
# Steepest descent again. Depth 1 is best at ranks 2 and 3, and gets worse as the rank grows.
# Depth 3 is almost as good at rank 20 as at rank 2. At their best ranks the depths are equally
# good.

print("\ntest error at the least validation error, rank", *(f"{k:8}" for k in RANKS))
chosen = {}
for geometry in DEPTHS:
    for k in RANKS[:-1]:
        runs["SteepestDescent", geometry, k] = Run(SteepestDescent, geometry, k)
    runs["SteepestDescent", geometry, LARGE] = runs["SteepestDescent", geometry]
    sweep = [runs["SteepestDescent", geometry, k] for k in RANKS]
    chosen[geometry] = np.array([run.test[run.stop] for run in sweep])
    print(f"{geometry:46}", *(f"{error:8.4f}" for error in chosen[geometry]), flush=True)

bests = [chosen[geometry].min() for geometry in DEPTHS]
theirs, ours = (runs["ConjugateGradient", which] for which in ("FixedRankEmbedded", "depth 1"))
claims = {
    "the gradients of FixedRankEmbedded and depth 1 agree": difference < 1e-10,
    # Later on rounding errors may decide a line search.
    "so do the errors along ten iterations of conjugate gradients": np.allclose(
        [theirs.train[:11], theirs.test[:11]], [ours.train[:11], ours.test[:11]], atol=1e-6
    ),
    f"at rank {LARGE} the test error falls by 2 % or more with each step in depth": all(
        chosen[deep][-1] < 0.98 * chosen[shallow][-1] for shallow, deep in pairwise(DEPTHS)
    ),
    f"depth 1 at rank {LARGE} is more than 10 % above its best rank": chosen["depth 1"][-1]
    > 1.1 * bests[0],
    f"depth 3 at rank {LARGE} is within 2 % of its best rank": chosen["depth 3"][-1]
    < 1.02 * bests[2],
    "the depths at their best ranks are within 1 %": max(bests) < 1.01 * min(bests),
}
print()
for claim, shows in claims.items():
    print(f"{'shows:' if shows else 'does not show:':15}{claim}")
assert arguments.data or all(claims.values())

# %%
# The figures
# -----------
# They stand at the head of this page. Dots are where the validation error of a run is least.

COLOURS = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00"], strict=True))
THEIRS = {"color": "#E69F00", "linestyle": ":", "linewidth": 2.5}
shown = all(claims.values())


def finished(figure, title, suffix):
    for panel in figure.axes:
        panel.grid(alpha=0.25)
    source = f"{len(ratings):,} ratings of {shape[1]:,} items by {shape[0]:,} users ({name})"
    figure.suptitle(f"{title if shown else 'Completion of ratings'}\n{source}", fontsize=12)
    figure.savefig(f"plot_ratings{suffix}.png", dpi=150)


figure, (ranks, along) = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
for geometry, colour in COLOURS.items():
    run = runs["SteepestDescent", geometry]
    along.plot(run.test, color=colour)
    along.plot(run.stop, run.test[run.stop], "o", color=colour)
    ranks.plot(RANKS, chosen[geometry], "o-", color=colour, label=geometry)
    last = LARGE, chosen[geometry][-1]
    ranks.annotate(geometry, last, (-6, 6), textcoords="offset points", ha="right")
along.plot(runs["SteepestDescent", "FixedRankEmbedded"].test, **THEIRS)
ranks.plot([], [], label="pymanopt's FixedRankEmbedded", **THEIRS)
for panel in (along, ranks):
    panel.axhline(error_of_means, color="0.5", linestyle="--")
ranks.plot([], [], color="0.5", linestyle="--", label="user and item means alone")
ranks.set(
    title="The deeper, the less the rank matters" if shown else "Test error by rank",
    xlabel="rank k of the completed matrix",
    ylabel="test error (root mean square)",
    xscale="log",
)
ranks.set_xticks(RANKS, RANKS)
ranks.minorticks_off()
along.set(
    title=f"At rank {LARGE} depth 1 fits noise early" if shown else f"Test error at rank {LARGE}",
    xlabel="iteration of steepest descent",
    ylabel="test error (root mean square)",
    ylim=(None, 1.2 * error_of_means),
)
ranks.plot([], [], "o", color="0.5", label="least validation error")
figure.legend(frameon=False, ncols=3, loc="outside lower center")
finished(figure, "Depth makes up for a rank that is set too large", "")

figure, (values, timed) = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
for geometry, colour in COLOURS.items():
    run = runs["SteepestDescent", geometry]
    values.semilogy(range(1, LARGE + 1), run.singular_values, ".-", color=colour)
    run = runs["ConjugateGradient", geometry]
    timed.plot(run.seconds, run.train, color=colour, label=geometry)
    timed.plot(*trust_regions[geometry], "^", color=colour, markersize=8)
run = runs["ConjugateGradient", "FixedRankEmbedded"]
timed.plot(run.seconds, run.train, label="FixedRankEmbedded", **THEIRS)
timed.plot([], [], "^", color="0.5", markersize=8, label="8 trust-region steps")
values.set(
    title=f"Rank {LARGE}, at the least validation error",
    xlabel="number i of the singular value",
    ylabel="singular value $s_i$ of W",
    xticks=range(1, LARGE + 1, 3),
)
timed.set(
    title=f"{ITERATIONS} iterations of conjugate gradients",
    xlabel="seconds on one core (machines differ)",
    ylabel="training error (root mean square)",
)
timed.legend(frameon=False)
finished(figure, "Depth keeps all but few singular values small", "_runs")
plt.show()
