r"""
Tutorial: from one matrix to four answers
=========================================

Train the layers of a deep linear network by gradient descent. Does it converge, how fast, to which
minimizer, and what do noise and finite steps change? In twenty minutes this page answers each
question for one small regression.

All results are computed when the page is built, and what is said of them is asserted or printed. At
the end of the page you can download it as a notebook or as a script. It needs riemdln and
matplotlib, and runs in seconds.
"""

# %%
# One regression
# --------------
# A teacher is a 4 x 4 matrix with the singular values 4, 2, 1 and 1/2. Forty inputs, the columns of
# :math:`X`, are white: :math:`X X^T = I`. Their outputs are :math:`Y`. So the best matrix is known:
# it is the teacher.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.sparse import coo_array

import riemdln

rng = np.random.default_rng(0)
U, V = np.linalg.qr(rng.standard_normal((2, 4, 4)))[0]
VALUES = np.array([4.0, 2.0, 1.0, 0.5])
teacher = U * VALUES @ V.T
X = np.linalg.qr(rng.standard_normal((40, 4)))[0].T
Y = teacher @ X

# %%
# A problem is a manifold and a cost. The manifold has a metric, which says how a gradient moves the
# matrix. `riemdln.DeepLinearMetric` is the metric of a network of the given depth. Depth 1 is
# ordinary gradient descent.


def regression(depth):
    """Half the squared error, under the metric of one depth."""
    manifold = riemdln.FullRank(4, 4, riemdln.DeepLinearMetric(depth), rng=0)

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W @ X - Y) ** 2, axis=(-2, -1)) / 2

    return pymanopt.Problem(manifold, cost)


# %%
# What depth does to a gradient
# -----------------------------
# At a matrix :math:`W` the metric turns the gradient :math:`P` of a cost into the direction in
# which :math:`W` moves. This map is called `sharp`, and its inverse is `flat`. Here :math:`W` has
# the singular values 1 and 0.1, and all entries of :math:`P` are one. Depth 1 leaves :math:`P`
# alone. The deeper, the faster the large singular value moves, and beside it the small one lags
# behind.

W, P = np.diag([1.0, 0.1]), np.ones((2, 2))
for depth in (1, 2, 3):
    at = riemdln.DeepLinearMetric(depth).at(W)
    moved = at.sharp(P)
    print(f"depth {depth}:", *np.round(moved, 2).tolist())
    assert np.allclose(at.flat(moved), P)
    assert np.allclose(np.diag(moved), depth * np.diag(W) ** (2 - 2 / depth))
    if depth == 2:  # the definition has one term for each layer
        assert np.allclose(moved, W @ P + P @ W)

# %%
# The flow, and the layers beside it
# ----------------------------------
# Gradient descent with tiny steps is a flow. `riemdln.gradient_flow` moves one matrix under the
# metric. `riemdln.network_flow` moves the layers of a real network. If the layers are balanced at
# the start, their product moves as the one matrix does. At depths 2 and 3 it keeps the sign of its
# determinant.

start = rng.standard_normal((4, 4))
times = np.linspace(0.0, 1.0, 6)
for depth in (1, 2, 3):
    problem = regression(depth)
    one_matrix = riemdln.gradient_flow(problem, start, times)
    layers = riemdln.balanced_layers(start, depth=depth)
    network = riemdln.network_flow(problem, layers, times)
    same = np.allclose(one_matrix.points, network.points, atol=1e-6)
    signs = np.sign(np.linalg.det(one_matrix.points))
    print(f"depth {depth}: the flow is the product of the layers: {same}")
    assert same
    assert depth == 1 or np.all(signs == signs[0])

# %%
# Now start small, as one does with networks. All singular values of this start are 0.001, and its
# singular vectors are those of the teacher. So each singular value moves by itself. At depth 1 they
# all rise together. At depths 2 and 3 the large ones rise first, and the small ones wait.

small, flows = 1e-3 * U @ V.T, {}
COLOURS = {1: "black", 2: "#0072B2", 3: "#D55E00"}
figure, panels = plt.subplots(3, 1, figsize=(4.8, 7.2), sharey=True, layout="constrained")
for panel, depth, end in zip(panels, (1, 2, 3), (6.0, 12.0, 24.0), strict=True):
    flow = riemdln.gradient_flow(regression(depth), small, np.linspace(0.0, end, 301))
    panel.plot(flow.times, flow.singular_values, color=COLOURS[depth])
    panel.set_title(f"depth {depth}", fontsize=10)
    panel.set(xlabel="time", yticks=[0, *VALUES])
    panel.yaxis.set_major_formatter("{x:g}")
    panel.grid(alpha=0.25)
    flows[depth] = flow
panels[1].set_ylabel("the four singular values of $W$")
figure.suptitle(
    "With depth, large singular values are learned first.\n"
    "Flows from 0.001 to the teacher's 4, 2, 1 and 0.5",
    fontsize=10.5,
)
plt.show()

# %%
# Does it converge?
# -----------------
# Yes. For least squares a flow of balanced layers always ends at a critical point, where the
# gradient is zero. This is a theorem: :doc:`/guide/four_questions` has its source. Here is the
# critical point of each rank that has the largest singular values. The last is the minimum. The
# others are saddles, and a run from a small start comes near each. At depth 3 they are not strict:
# the cost does not curve downwards there. So the run is slow to leave, and its cost has steps.

points = list(riemdln.critical_points(Y, X, depth=3, modes=[range(k) for k in range(5)]))
flow = flows[3]
figure, panel = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
panel.semilogy(flow.times, flow.costs, color=COLOURS[3])
for point in points:
    nearest = np.linalg.norm(flow.points - point.point, axis=(1, 2)).min()
    print(f"rank {point.rank}, {point.kind}: cost {point.cost:.3f}, {nearest:.3f} away")
    assert nearest < 0.02
    if point.kind != "minimum":
        panel.axhline(point.cost, color="0.6", linestyle=":")
        panel.text(24, point.cost, f"saddle of rank {point.rank}", ha="right", va="bottom")
panel.set(xlabel="time", ylabel="cost of the regression", ylim=(1e-3, 30))
panel.set_title(
    "A run from a small start waits at saddles\nbefore it converges (depth 3)", fontsize=10.5
)
plt.show()

# %%
# How fast?
# ---------
# First comes the wait. `riemdln.escape_time` says when a singular value is half learned, from where
# it starts and where it goes. The flows above keep these times. From a start a thousand times
# smaller the wait is twice as long at depth 2, but eleven times at depth 3.

for depth in (2, 3):
    flow, expected = flows[depth], riemdln.escape_time(1e-3, VALUES, depth)
    shares = (flow.singular_values / VALUES).T
    measured = [np.interp(0.5, share, flow.times) for share in shares]
    print(f"depth {depth}: half learned at the times", *np.round(measured, 1))
    assert np.allclose(measured, expected, rtol=0.01)
    smaller = riemdln.escape_time(1e-6, 4.0, depth) / expected[0]
    print(f"    from 0.000001 the first would take {smaller:.0f} times as long")

# %%
# Then comes the end, where the distance to the minimum falls like :math:`e^{-\lambda t}`. The rate
# :math:`\lambda` is the smallest eigenvalue of the Riemannian Hessian, which `riemdln.spectrum`
# finds. The cost falls twice as fast. We measure it on a flow from beside the minimum.

minimum = points[-1].point
assert np.allclose(minimum, teacher)
for depth in (1, 2, 3):
    problem = regression(depth)
    rate = riemdln.spectrum(problem, minimum, which="smallest").eigenvalues[0]
    beside, tolerances = minimum + 1e-3, {"rtol": 1e-12, "atol": 1e-14}
    flow = riemdln.gradient_flow(problem, beside, [0.0, 6.0, 8.0], **tolerances)
    measured = np.log(flow.costs[1] / flow.costs[2]) / (2 * 2.0)
    print(f"depth {depth}: rate {rate:.3f}, measured {measured:.3f}")
    assert np.isclose(rate, measured, rtol=0.02)

# %%
# To which minimizer?
# -------------------
# So far there was one minimizer. Now take the part of the teacher of rank one, and hide its
# diagonal. The cost counts the other entries only, so any diagonal is a minimizer. We ask which one
# a flow from a small start finds.

seen = ~np.eye(4, dtype=bool)
rank_one = points[1].point
entries = coo_array((rank_one[seen], np.nonzero(seen)), shape=(4, 4))


def completed(depth, imbalance=0.0):
    """The end of the flow, and how far it is from rank one."""
    metric = riemdln.DeepLinearMetric(depth, imbalance=imbalance)
    manifold = riemdln.FullRank(4, 4, metric)
    problem = riemdln.MatrixCompletion(entries).problem(manifold)
    options = {"method": "LSODA", "cost_tolerance": 1e-8}
    flow = riemdln.gradient_flow(problem, 1e-3 * np.eye(4), [0.0, 1e4], **options)
    error = np.linalg.norm(flow.points[-1] - rank_one) / np.linalg.norm(rank_one)
    return flow.points[-1], error


# %%
# Depth 1 leaves the hidden entries where they were, near zero. Depths 2 and 3 find the matrix of
# rank one, the deeper the closer. No rank was asked for: depth and the small start choose it.

ends, errors = zip(*(completed(depth) for depth in (1, 2, 3)), strict=True)
assert errors[0] > 10 * errors[1] > 100 * errors[2]
figure, panels = plt.subplots(2, 2, figsize=(4.8, 5.4), layout="constrained")
titles = ["to be found", *(f"depth {d}: {e:.1%} off" for d, e in enumerate(errors, 1))]
for panel, matrix, title in zip(panels.flat, [rank_one, *ends], titles, strict=True):
    panel.imshow(matrix, cmap="RdBu_r", vmin=-3, vmax=3)
    panel.plot(range(4), range(4), "s", color="black", mfc="none", markersize=34)
    panel.set_title(title, fontsize=10)
    panel.set_axis_off()
figure.suptitle(
    "Depth fills in the hidden entries (boxes)\nso that the rank is one. Colours: entries\n"
    r"of $4 \times 4$ matrices, from $-3$ (blue) to 3 (red)",
    fontsize=10.5,
)
plt.show()

# %%
# Layers need not be balanced. At depth 2 the imbalance is the number :math:`\lambda` in
# :math:`W_2^T W_2 - W_1 W_1^T = \lambda I`, which a flow keeps. If it is large, two layers act as
# one: the run is lazy, and finds no low rank. If it is small, the run is rich.

errors = [completed(2, imbalance)[1] for imbalance in (0.0, 0.01, 0.1, 1.0, 10.0)]
print("errors as imbalance grows:", *np.round(errors, 3))
assert np.all(np.diff(errors) > 0)
assert np.isclose(errors[-1], completed(1)[1], rtol=0.02)

# %%
# Weight decay on the layers moves the minimizer itself. `riemdln.layer_decay` adds it to a problem.
# Back in the regression, depth 2 takes 0.75 off each singular value, down to zero at most. Depth 3
# takes less from the large ones, and removes the small ones.

for depth in (2, 3):
    problem = riemdln.layer_decay(regression(depth), rate=0.75)
    flow = riemdln.gradient_flow(problem, 2 * teacher, [0.0, 40.0])
    left = flow.singular_values[-1]
    expected = riemdln.decayed_singular_value(VALUES, 0.75, depth)
    print(f"depth {depth}: 4, 2, 1, 0.5 become", *np.round(left, 2))
    assert np.allclose(left, expected, atol=1e-4)

# %%
# What do finite steps change?
# ----------------------------
# Gradient descent takes steps of a fixed size, the learning rate. Near the minimum it is stable
# below `riemdln.max_stable_step`, which is :math:`2 / \lambda_{\max}`. Here, at depth :math:`N`,
# :math:`\lambda_{\max} = N s_1^{2 - 2/N}`. So deeper networks need smaller steps.

limits = [riemdln.max_stable_step(regression(depth), minimum) for depth in (1, 2, 3)]
print("steps are stable below", *np.round(limits, 3), "at depths 1, 2, 3")
assert np.allclose(limits, [2 / (N * 4 ** (2 - 2 / N)) for N in (1, 2, 3)])


def descend(problem, step):
    """The largest singular value in 100 steps of two layers."""
    layers, largest = riemdln.balanced_layers(minimum + 0.01, depth=2), []
    for _ in range(100):
        W = riemdln.end_to_end(layers)
        largest.append(np.linalg.norm(W, ord=2))
        gradients = riemdln.layer_gradients(layers, problem.euclidean_gradient(W))
        layers = [layer - step * G for layer, G in zip(layers, gradients, strict=True)]
    return largest


# %%
# Just below the limit two layers settle at the minimum. Just above it they neither settle nor fly
# away: their largest singular value swings between two values. The last four are printed.

figure, panel = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
for share, colour in ((0.95, "0.6"), (1.05, COLOURS[2])):
    largest = descend(regression(2), share * limits[1])
    panel.plot(largest, ".-", color=colour, label=f"{share} of the largest stable step")
    print(f"{share} of the limit:", *np.round(largest[-4:], 3))
    assert np.allclose(largest[-4:-2], largest[-2:], atol=0.01)
    assert np.allclose(largest[-2:], 4, atol=0.01) == (share < 1)
panel.set(xlabel="step of gradient descent", ylabel="largest singular value of $W_2 W_1$")
panel.set_ylim(2.9, 5.4)  # room for the legend
panel.legend(loc="upper left", frameon=False)
panel.set_title("Just above the largest stable step,\ntwo layers swing", fontsize=10.5)
plt.show()

# %%
# What does noise change?
# -----------------------
# With noise a run does not end. It comes to an equilibrium about the minimum, at the inverse
# temperature :math:`\beta`. `riemdln.langevin_flow` simulates many copies at once. When it is cold,
# each of the 16 dimensions adds :math:`1 / (2 \beta)` to the mean cost, at every depth. A hundred
# copies show it to within a few percent.

beta = 1e4
for depth in (1, 3):
    problem = regression(depth)
    step = 0.2 * riemdln.max_stable_step(problem, minimum)
    copies = np.tile(minimum, (100, 1, 1))
    flow = riemdln.langevin_flow(
        problem, copies, np.arange(6.0), beta=beta, step_size=step, vectorized=True, rng=0
    )
    mean = flow.costs[2:].mean() * beta
    print(f"depth {depth}: mean cost {mean:.2f} / beta, expected 8 / beta")
    assert np.isclose(mean, 8, rtol=0.1)

# %%
# When it is warmer, noise also prefers matrices that can be made by more choices of layers. The
# logarithm of how many choices is the entropy :math:`S`. What counts is the free energy
# :math:`E - S / \beta`: its minimum has larger singular values than the teacher, and the small ones
# grow most. At depth 1 the layer is the matrix, and nothing is preferred.

for depth in (1, 2, 3):
    problem = riemdln.free_energy(regression(depth), beta=3.0)
    flow = riemdln.gradient_flow(problem, teacher, [0.0, 20.0])
    growth = flow.singular_values[-1] - VALUES
    print(f"depth {depth}: 4, 2, 1, 0.5 become", *np.round(VALUES + growth, 2))
    if depth == 1:
        assert np.allclose(growth, 0)
    else:
        assert np.all(np.diff([0, *growth]) > 0)

# %%
# The four answers
# ----------------
# - **Does it converge?** Yes. On its way from a small start it waits at saddles.
# - **How fast?** After the escape times, as :math:`e^{-\lambda t}`, where :math:`\lambda` is the
#   smallest eigenvalue of the Riemannian Hessian.
# - **To which minimizer?** With depth, balance and a small start, to one of low rank. Weight decay
#   moves it.
# - **What do noise and finite steps change?** Steps below :math:`2 / \lambda_{\max}` settle. Noise
#   comes to an equilibrium, with an entropy.
#
# Where to go next
# ----------------
# - All four questions in brief: :doc:`/guide/four_questions`. The words, in pictures:
#   :doc:`/guide/concepts`.
# - Does it converge, how fast: :doc:`/guide/flows`, :doc:`/guide/where_runs_end`, with
#   :doc:`/gallery/plot_singular_values` and :doc:`/gallery/plot_greedy_learning`.
# - To which minimizer: :doc:`/guide/low_rank`, :doc:`/guide/imbalance`, :doc:`/guide/weight_decay`,
#   with :doc:`/gallery/plot_matrix_completion` and :doc:`/gallery/plot_lazy_and_rich`.
# - Finite steps and noise: :doc:`/guide/steps`, :doc:`/guide/noise`, with
#   :doc:`/gallery/plot_edge_of_stability` and :doc:`/gallery/plot_free_energy`.
# - Every equation with its tests: :doc:`/mathematics`. Every function: :doc:`/api`.
# - A loss of your own, in PyTorch or JAX: :doc:`/guide/your_own_loss`.
