r"""
Matrix completion at temperature: noise melts the low rank
==========================================================

A deep linear network completes a matrix of rank one from half of its entries. Noise in its training
raises the rank and the error, at depth 2 sooner than at depth 3.

.. image:: images/sphx_glr_plot_warm_completion_001.png
   :alt: Effective rank and error on unobserved entries against temperature, at depths 1, 2 and 3
   :class: figures-first
   :target: ../_images/sphx_glr_plot_warm_completion_001.png

.. image:: images/sphx_glr_plot_warm_completion_002.png
   :alt: The target, the observed entries, and completed matrices of depths 1 and 3
   :class: figures-first
   :target: ../_images/sphx_glr_plot_warm_completion_002.png

With weight decay and noise that keeps the layers balanced, the end-to-end matrix W comes to an
equilibrium (Menon 2024; Menon and Yu 2025),

.. math:: e^{-\beta E + S} \sqrt{\det g} \, dW, \qquad
          E = \tfrac12 \sum_{(i, j) \text{ observed}} (W - T)_{ij}^2
              + \frac{\mu}{2} \sum_{k=1}^N \|W_k\|^2, \qquad
          \|W_k\|^2 = \sum_i s_i^{2/N},

with the entropy S of the balanced layers. In the words of Bayes it is the posterior of a network
with balanced layers: :math:`\beta` is the precision of the data, and :math:`\beta \mu` that of a
Gaussian prior of the weights.

This example draws from it by `riemdln.sample` at depths 2 and 3. At low temperature
:math:`1 / \beta` depth keeps the rank and the error on the unobserved entries low. At the highest
temperature depth is of no use: the error is no less than at depth 1, which knows nothing of the
unobserved entries.

The guide has a page on :doc:`noise </guide/noise>`, and the theory a section on :ref:`Langevin's
equation <langevin>`.

Run it with ``python examples/plot_warm_completion.py``; it writes ``plot_warm_completion.png`` and
``plot_warm_completion_draws.png``.
"""

# %%
# The problem
# -----------
# The target is a 6 x 6 matrix of rank one with the singular value 3. Three entries of each row and
# column are observed. The effective rank (Roy and Vetterli 2007) is exp(H), where H is the entropy
# of the singular values divided by their sum.
#
# Weight decay is needed. Without it the 18 unobserved entries would cost nothing. Volume and
# entropy fall with the norm of W as :math:`\|W\|^{-(1 - 1/N) n (n + 1) / 2}`, the power -14 at
# depth 3. In 18 dimensions this fall is too slow, and there would be no equilibrium.

import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln

SIZE, DECAY, CHAINS = 6, 0.2, 16
TEMPERATURES = np.array([0.001, 0.003, 0.01, 0.03, 0.1])
rng = np.random.default_rng(0)
left, right = np.linalg.qr(rng.standard_normal((2, SIZE, 1)))[0]
target = left * 3 @ right.T
i = np.arange(SIZE)
observed = (i[:, None] + i) % SIZE < SIZE // 2
observed = observed[rng.permutation(SIZE)][:, rng.permutation(SIZE)]


def problem_at(depth):
    """The squared error on the observed entries and the weight decay of balanced layers."""
    manifold = riemdln.FullRank(SIZE, SIZE, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.numpy(manifold)
    def cost(W):
        s = np.linalg.svd(W, compute_uv=False)
        decay = DECAY * depth / 2 * np.sum(s ** (2 / depth), axis=-1)
        return np.sum(observed * (W - target) ** 2, axis=(-2, -1)) / 2 + decay

    @pymanopt.function.numpy(manifold)
    def euclidean_gradient(W):
        u, s, vt = np.linalg.svd(W)
        return observed * (W - target) + DECAY * (u * s[..., None, :] ** (2 / depth - 1)) @ vt

    return pymanopt.Problem(manifold, cost, euclidean_gradient=euclidean_gradient)


def effective_rank(W):
    return riemdln.effective_rank(np.linalg.svd(W, compute_uv=False))


def relative_error(W):
    """The error on the entries that are not observed, relative to them."""
    difference = np.linalg.norm((W - target)[..., ~observed], axis=-1)
    return difference / np.linalg.norm(target[~observed])


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_warm_completion_001_1.png"

# %%
# Draws
# -----
# First comes the flow without noise, to the time 20. The chains of each temperature start around
# its end, not quite as far from it as noise will take them. The step sizes are those that
# ``riemdln.sample`` finds in a longer warm-up when none is given. At depth 1 no chain is needed:
# all entries are independent and Gaussian. Observed ones have the mean :math:`T_{ij} / (1 + \mu)`
# and the variance :math:`1 / (\beta (1 + \mu))`, the others have the mean zero and the variance
# :math:`1 / (\beta \mu)`.

DEPTHS = [1, 2, 3]
STEPS = {2: [0.11, 0.1, 0.085, 0.065, 0.04], 3: [0.045, 0.045, 0.035, 0.025, 0.014]}
COUNT = 20


def draws_at_depth_1(temperature):
    deviations = np.sqrt(temperature / (observed + DECAY))
    noise = rng.standard_normal((CHAINS, COUNT, SIZE, SIZE))
    return observed * target / (1 + DECAY) + deviations * noise


def draws_at(depth, temperature, step_size):
    around = rng.standard_normal((CHAINS, SIZE, SIZE))
    return riemdln.sample(
        problem_at(depth),
        1 / temperature,
        COUNT,
        chains=CHAINS,
        initial_point=cold[depth] + np.sqrt(temperature / (2 * DECAY)) * around,
        step_size=step_size,
        warmup=300,
        vectorized=True,
        rng=rng,
    ).points


cold = {1: observed * target / (1 + DECAY)}
draws = {(1, temperature): draws_at_depth_1(temperature) for temperature in TEMPERATURES}
for depth, steps in STEPS.items():
    flow = riemdln.gradient_flow(problem_at(depth), 0.3 * np.eye(SIZE), [0.0, 20.0], rtol=1e-6)
    cold[depth] = flow.points[-1]
    for temperature, step_size in zip(TEMPERATURES, steps, strict=True):
        draws[depth, temperature] = draws_at(depth, temperature, step_size)

# %%
# Rank and error
# --------------
# The mean of all draws, with the standard error of the means of the chains.

MEASURES = {"effective rank": effective_rank, "relative error": relative_error}
measured = {}
for depth in DEPTHS:
    words = []
    for name, measure in MEASURES.items():
        of_chains = np.array([measure(draws[depth, t]).mean(axis=1) for t in TEMPERATURES])
        means, errors = of_chains.mean(axis=1), of_chains.std(axis=1) / CHAINS**0.5
        measured[depth, name] = means, errors
        values = ", ".join(f"{x:.2f} +- {e:.2f}" for x, e in zip(means, errors, strict=True))
        words.append(f"{name} {measure(cold[depth]):.2f} without noise, then {values}")
        assert np.all(np.diff(means) > 0)
    print(f"depth {depth}: " + "; ".join(words))
print(f"temperatures: {', '.join(f'{t:g}' for t in TEMPERATURES)}")
for name in MEASURES:
    means, errors = np.moveaxis([measured[depth, name] for depth in DEPTHS], 1, 0)
    # The deeper the lower, far from the highest temperature.
    assert np.all(np.diff(means, axis=0)[:, :3] < -2 * errors[1:, :3])
assert np.all(means[1:, -1] > means[0, -1] - 3 * errors[1:, -1])

# %%
# The figures
# -----------
# They stand at the head of this page. Bars are two standard errors. The draws of the second figure
# are of the temperature 0.01.

COLOURS = {1: "#000000", 2: "#0072B2", 3: "#D55E00"}
figure, (ranks, errors) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
for panel, (name, measure) in zip((ranks, errors), MEASURES.items(), strict=True):
    for depth, colour in COLOURS.items():
        means, bars = measured[depth, name]
        style = {"color": colour, "markersize": 5, "elinewidth": 1}
        panel.errorbar(TEMPERATURES, means, 2 * bars, fmt="o-", label=f"depth {depth}", **style)
        panel.plot(3e-4, measure(cold[depth]), "D", color=colour, markersize=5)
    panel.plot([], [], "D", color="0.5", markersize=5, linestyle="", label="without noise")
    panel.set(xscale="log", xlabel=r"temperature $1 / \beta$ of the noise", xlim=(2e-4, 0.15))
    panel.grid(alpha=0.25)
ranks.set(
    title="The rank rises with noise",
    ylabel="effective rank of W (dotted: of the target)",
    ylim=(0.8, 6),
)
errors.set(
    title="Where noise is strong, depth is of no use",
    ylabel="relative error on unobserved entries",
    ylim=(0, None),
)
ranks.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
ranks.legend(frameon=False, loc="upper left", ncols=2)
figure.suptitle(
    "Noise melts the low rank that depth prefers; depth 3 holds out longest\n"
    r"Draws of W that complete a half observed $6 \times 6$ matrix of rank one; "
    "bars: two standard errors",
    fontsize=12,
)
figure.savefig("plot_warm_completion.png", dpi=150)

figure, panels = plt.subplots(1, 4, figsize=(9, 3.1), layout="constrained")
images = {"target T": target, "observed half of T": np.where(observed, target, np.nan)}
images |= {f"W at depth {depth}": draws[depth, 0.01][0, -1] for depth in (1, 3)}
for panel, (title, W) in zip(panels, images.items(), strict=True):
    image = panel.imshow(W, cmap="RdBu_r", vmin=-1.5, vmax=1.5)
    panel.set(title=title, xticks=[], yticks=[], facecolor="0.7")
panels[1].set_xlabel("grey: not observed")
panels[2].set_xlabel("one draw")
panels[3].set_xlabel("one draw")
figure.colorbar(image, ax=panels, shrink=0.8, aspect=12, pad=0.02, label="value of an entry")
figure.suptitle(
    "At low temperature depth 3 finds the entries that depth 1 cannot know\n"
    r"Completion of a $6 \times 6$ matrix T of rank one at the temperature $1 / \beta = 0.01$",
    fontsize=12,
)
figure.savefig("plot_warm_completion_draws.png", dpi=150)
plt.show()
