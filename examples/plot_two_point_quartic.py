r"""
Two points and a quartic loss: how much depth accelerates
=========================================================

With one large and one small target, depth two learns the small one faster. The nearer to zero a
run starts, the larger is the speed-up, but only in a narrow band of learning rates.

.. image:: images/sphx_glr_plot_two_point_quartic_001.png
   :alt: Depth 2 lowers the loss in fewer steps than depth 1; its speed-up grows as predicted
   :class: figures-first
   :target: ../_images/sphx_glr_plot_two_point_quartic_001.png

.. image:: images/sphx_glr_plot_two_point_quartic_002.png
   :alt: The predicted rate lies in a narrow band of rates that converge; the speed-up has an end
   :class: figures-first
   :target: ../_images/sphx_glr_plot_two_point_quartic_002.png

The guide tells :doc:`what depth does </guide/depth>` and :doc:`how long a step may be
</guide/steps>`, and the theory has :ref:`the formula for one output <special>`. The code uses
`riemdln.DeepLinearMetric`.

Run it with ``python examples/plot_two_point_quartic.py``; it writes ``plot_two_point_quartic.png``
and ``plot_two_point_quartic_limits.png``.
"""

# %%
# The heuristic
# -------------
# Arora, Cohen and Hazan (2018) explain the acceleration by depth on two training points with one
# coordinate each,
#
# .. math:: E(w) = \tfrac14 (w_1 - y_1)^4 + \tfrac14 (w_2 - y_2)^4, \qquad y_1 \gg y_2 > 0,
#
# and a network of depth two. Let a run start near zero, at :math:`w = (\epsilon_1 / y_1) \, y`, so
# that :math:`\epsilon_1` is the distance of :math:`w_1` from zero, and write
# :math:`\Delta_i = w_i - y_i`.
#
# - Gradient descent: :math:`\Delta_i \leftarrow (1 - \eta \Delta_i^2) \Delta_i`. It needs
#   :math:`\eta \Delta_1^2 < 2`, that is :math:`\eta < 2 / y_1^2`. At this rate the second
#   coordinate is slow: :math:`\Delta_2 \approx 1 / \sqrt{2 \eta k}` after :math:`k` steps.
# - Depth two: :math:`w \leftarrow w - \eta \|w\| (p + \mathrm{Pr}_w p)` with the gradient
#   :math:`p`. While :math:`w \approx (w_1, 0)` this is
#   :math:`\Delta_1 \leftarrow (1 - 2 \eta w_1 \Delta_1^2) \Delta_1`. At the start :math:`w_1` is
#   only :math:`\epsilon_1`: a rate of :math:`\eta = 1 / (2 \epsilon_1 y_1^2)` takes the first
#   coordinate to its target in one step, and twice that is too much.
# - From then on :math:`\|w\| \approx y_1` and
#   :math:`\Delta_2 \leftarrow (1 - \eta y_1 \Delta_2^2) \Delta_2`. This is gradient descent with
#   the learning rate :math:`\eta y_1 = 1 / (2 \epsilon_1 y_1)`. It is larger than
#   :math:`2 / y_1^2` by the factor :math:`y_1 / (4 \epsilon_1)`, the predicted speed-up.
# - The second coordinate must be stable too. The projection on :math:`w` took it half way in the
#   first step, so that is :math:`\eta y_1 (y_2 / 2)^2 < 2`, or
#   :math:`\epsilon_1 > y_2^2 / (16 y_1)`. This ends the prediction at a speed-up of
#   :math:`4 (y_1 / y_2)^2`.
#
# The heuristic looks at the start and at the end of the way, and at a start that already points to
# the target. In between, :math:`w_1 \Delta_1^2` is much larger, so that a large rate is stable only
# if one step jumps over it. And the update is the one of the end-to-end matrix. A step of the
# layers differs from it by :math:`O(\eta^2)`, and here :math:`\eta` is not small.

# %%
# Descent, many runs at a time
# ----------------------------
# The metric takes stacks of matrices, so one loop runs any number of starts, targets and learning
# rates. The unit of length is :math:`y_2`.

from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from scipy.optimize import brentq

import riemdln


def starts_and_targets(y1, ratios):
    """The rows (eps_1 / y_1) y and y for y = (y_1, 1) and the ratios eps_1 / y_1."""
    targets = np.stack([y1, np.ones_like(y1)], axis=-1)[..., None, :]
    return ratios[..., None, None] * targets, targets


def descent(depth, starts, targets, rates):
    """The rows w of a stack of runs with constant learning rates, step by step."""
    metric = riemdln.DeepLinearMetric(depth)
    w, rates = starts, np.asarray(rates)[..., None, None]
    while True:
        yield w
        # A run that diverges stays far away.
        w = np.clip(w - rates * metric.sharp(w, (w - targets) ** 3), -1e6, 1e6)


def layer_descent(starts, targets, rates):
    """The same by gradient descent on the two layers of a network, balanced at the start."""
    root, rates = np.sqrt(np.linalg.norm(starts, axis=-1, keepdims=True)), rates[..., None, None]
    above, below = root, starts / root
    while True:
        w = above * below
        yield w
        p = (w - targets) ** 3
        steps = rates * np.sum(p * below, axis=-1, keepdims=True), rates * above * p
        above, below = (
            np.clip(W - X, -1e3, 1e3) for W, X in zip((above, below), steps, strict=True)
        )


def converges(depth, starts, targets, rates, steps=200):
    """Whether the loss ends, and for a tenth of the steps stays, below 1/1000 of its start."""
    last = islice(descent(depth, starts, targets, rates), steps - steps // 10, steps)
    losses = np.max([np.sum((w - targets) ** 4, axis=(-2, -1)) for w in last], axis=0)
    return losses < 1e-3 * np.sum((starts - targets) ** 4, axis=(-2, -1))


def edge(depth, starts, targets, stable, unstable):
    """Where convergence ends between a stable and an unstable learning rate, by bisection."""
    for _ in range(25):
        middle = (stable + unstable) / 2
        good = converges(depth, starts, targets, middle)
        stable, unstable = np.where(good, middle, stable), np.where(good, unstable, middle)
    return stable


# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_two_point_quartic_001_2.png"

# %%
# The largest stable learning rates
# ---------------------------------
# For gradient descent the prediction is exact once :math:`y_1` is replaced by the distance
# :math:`y_1 - \epsilon_1` at the start. At depth two the stable rates end a little above the
# predicted one. Its step may miss the target by the :math:`\delta` for which
# :math:`\eta (y_1 + \delta) \delta^2 = 1`, about :math:`\sqrt{2 \epsilon_1 y_1}`. So they should
# end higher by the factor :math:`1 + \sqrt{2 \epsilon_1 / y_1}`.

Y1 = 32.0
ratios = np.geomspace(1e-3, 1e-1, 7)
starts, targets = starts_and_targets(np.full_like(ratios, Y1), ratios)
distances = Y1 * (1 - ratios)
euclidean = edge(1, starts, targets, 1 / distances**2, 4 / distances**2)
predicted = 1 / (2 * ratios * Y1 * distances**2)
upper = edge(2, starts, targets, predicted, 2 * predicted)
error = np.max(np.abs(euclidean * distances**2 / 2 - 1))
print(f"gradient descent: stable up to 2 / (y_1 - eps_1)^2, relative error {error:.0e}")
for ratio, factor in zip(ratios, upper / predicted, strict=True):
    print(
        f"depth 2, eps_1 = {ratio:.4f} y_1: stable up to {factor:.3f} times the predicted rate; "
        f"1 + sqrt(2 eps_1 / y_1) = {1 + np.sqrt(2 * ratio):.3f}"
    )
assert error < 1e-6
assert np.allclose(upper / predicted, 1 + np.sqrt(2 * ratios), rtol=0.08)

# %%
# Not every smaller rate is stable. One step must jump over what lies between, where
# :math:`w_1 \Delta_1^2` is up to :math:`4 y_1^3 / 27`. On a map of all starts and all rates the
# predicted rate lies in a band that gets narrow near zero. A rate of :math:`5.2 / y_1^3` is stable
# from every start: then :math:`|1 - 2 \eta w_1 \Delta_1^2| < 1` at all :math:`w_1` from zero to the
# largest that a step can reach.


def excess(scale):
    """2 eta w_1 Delta_1^2 - 2 at the largest w_1 that a step of eta = scale / y_1^3 can reach."""
    w = np.linspace(0, 1, 10001)
    reached = np.max(w + 2 * scale * w * (1 - w) ** 3)
    return 2 * scale * reached * (reached - 1) ** 2 - 2


always = brentq(excess, 4, 27 / 4)
map_ratios, map_scales = np.geomspace(5e-5, 0.5, 240), np.geomspace(1, 3e5, 300)
starts, targets = starts_and_targets(np.full_like(map_ratios, Y1), map_ratios)
stable = converges(2, starts, targets, map_scales[:, None] / Y1**3)
first = map_scales[np.argmin(stable, axis=0)]
near_zero = first[map_ratios < 1e-2]
print(
    f"depth 2: every start converges up to {always:.3f} / y_1^3; the lowest rate of the map that "
    f"does not is {first.min():.3f} / y_1^3, and for the starts closest to zero between "
    f"{near_zero.min():.1f} / y_1^3 and {near_zero.max():.1f} / y_1^3"
)
assert np.all(stable[map_scales < always])
assert np.all(near_zero < 4 * always)

# %%
# The direction of the start matters as well. At the angle :math:`\alpha` from the first axis the
# projection on :math:`w` takes the second coordinate to :math:`y_1 \tan(\alpha) / 2` in the first
# step. It may be no farther from its target than
# :math:`(2 / (\eta y_1))^{1/2} = 2 (\epsilon_1 y_1)^{1/2}`.

angles = np.radians(np.linspace(-89.5, 89.5, 180))
size = Y1 / 300
starts = size * np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None, :]
good = np.degrees(angles[converges(2, starts, targets[0], 1 / (2 * size * Y1**2))])
miss = 2 * np.sqrt(size * Y1)
expected = np.degrees(np.arctan(2 * np.array([1 - miss, 1 + miss]) / Y1))
print(
    f"starts y_1 / 300 away from zero: the predicted rate converges for angles of {good.min():.1f} "
    f"to {good.max():.1f} degrees, expected {expected[0]:.1f} to {expected[1]:.1f}"
)
assert np.allclose([good.min(), good.max()], expected, atol=2)
assert len(good) < 0.2 * len(angles)

# %%
# The speed-up
# ------------
# The speed-up is the number of steps that gradient descent takes over the number that depth two
# takes, until both coordinates are, and stay, within :math:`y_2 / 10` of their targets. Gradient
# descent takes its rate :math:`2 / y_1^2`. The end-to-end update takes the predicted rate, or the
# one that is stable from every start. The first speed-up is the predicted one as long as the second
# coordinate is stable. It is larger just before the limit, where a few steps lead that coordinate
# straight to its target. The second speed-up is about 5.2 / 2 from every start.


def steps_until(points, targets, limit):
    """The steps after which each run stays within 1/10 of its target, infinite if none do."""
    last = np.zeros(1)
    for count, w in enumerate(islice(points, limit)):
        far = np.max(np.abs(w - targets), axis=(-2, -1)) > 0.1
        last = np.where(far, count + 1, last)
        # To stay is to be there for the last tenth of the run.
        if np.all(last < 0.9 * count):
            break
    return np.where(last < 0.9 * count, last, np.inf)


lengths, inverse_ratios = np.array([8.0, 16.0, Y1]), np.geomspace(10, 1e5, 17)
y1, inverse = np.meshgrid(lengths, inverse_ratios, indexing="ij")
eps1 = y1 / inverse
starts, targets = starts_and_targets(y1, 1 / inverse)
steps = steps_until(descent(1, starts, targets, 2 / y1**2), targets, limit=40 * int(Y1) ** 2)
limit = int(steps.max()) // 2
rates = np.stack([1 / (2 * eps1 * y1**2), always / y1**3])
gains, safe_gains = steps / steps_until(descent(2, starts, targets, rates), targets, limit)
predicted_gains = inverse / 4

lowest = 1 / (16 * y1)  # where the second coordinate is stable no longer, in units of y_2^2

holds = (eps1 > 8 * lowest) & (eps1 < y1 / 30)
design = np.stack([np.ones(holds.sum()), np.log(y1[holds]), np.log(eps1[holds])], axis=-1)
slopes = np.linalg.lstsq(design, np.log(gains[holds]))[0][1:]
factors = (gains / predicted_gains)[holds]
print(
    f"speed-up over gradient descent, y_2^2 / (2 y_1) < eps_1 < y_1 / 30: "
    f"{factors.min():.2f} to {factors.max():.2f} times y_1 / (4 eps_1), "
    f"slopes {slopes[0]:.3f} in y_1 and {slopes[1]:.3f} in eps_1"
)
print(
    f"at the rate that every start allows: {safe_gains.min():.2f} to {safe_gains.max():.2f}, "
    f"expected {always / 2:.2f}"
)
lost = gains[eps1 < 0.8 * lowest]
print(f"eps_1 < 0.8 y_2^2 / (16 y_1): {np.sum(lost == 0)} of {lost.size} runs never arrive")
assert np.allclose(slopes, [1, -1], atol=0.03)
assert np.all((factors > 1) & (factors < 1.15))
assert np.all(np.abs(safe_gains / (always / 2) - 1) < 0.15)
assert np.all(gains[eps1 > 1.2 * lowest] > 0)
assert np.all(lost == 0)

# %%
# The layers of a real network
# ----------------------------
# A step of the two balanced layers takes :math:`w_1` to :math:`\epsilon_1 (1 + \eta y_1^3)^2`. So
# the first coordinate arrives in one step at the smaller rate
# :math:`\eta = (y_1 / \epsilon_1)^{1/2} / y_1^3`. The speed-up is then only
# :math:`(y_1 / \epsilon_1)^{1/2} / 2`.

wide = inverse_ratios > 30
network = starts[-1][wide], targets[-1][wide], np.sqrt(inverse_ratios[wide]) / Y1**3
layer_gains = steps[-1][wide] / steps_until(layer_descent(*network), network[1], limit)
layer_slope = np.polyfit(np.log(inverse_ratios[wide]), np.log(layer_gains), 1)[0]
layer_factors = layer_gains / (np.sqrt(inverse_ratios[wide]) / 2)
print(
    f"layers: {layer_factors.min():.2f} to {layer_factors.max():.2f} times "
    f"(y_1 / eps_1)^(1/2) / 2, slope {layer_slope:.3f} in y_1 / eps_1"
)
assert abs(layer_slope - 0.5) < 0.03

# %%
# The figures
# -----------
# Both give the rate :math:`\eta` of each method. Grey lines are the predicted speed-ups. The dotted
# one is the limit beyond which the second coordinate is unstable.

BLACK, BLUE, SKY, GREEN = "#000000", "#0072B2", "#56B4E9", "#009E73"
NEARNESS = r"nearness of the start to zero, $y_1 / \epsilon_1$"
GAIN = "speed-up: steps at depth 1 / steps at depth 2"
SETTING = (
    r"Loss $(w_1 - y_1)^4 / 4 + (w_2 - y_2)^4 / 4$ with a large target $y_1$ and a small one $y_2$;"
    "\n"
    r"start $(w_1, w_2) = (\epsilon_1 / y_1) (y_1, y_2)$; steps until both "
    r"$|w_i - y_i| < y_2 / 10$; learning rate $\eta$"
)
guide = inverse_ratios[[0, -1]]
figure, (loss, gain) = plt.subplots(1, 2, figsize=(9, 6.2), layout="constrained")

one = 1, 6  # y_1 = 16 y_2, eps_1 = y_1 / 316
start, target, length, inverse_ratio = starts[one], targets[one], y1[one], inverse[one]
for points, colour, marker, label in (
    (
        descent(2, start, target, inverse_ratio / (2 * length**3)),
        BLUE,
        "o",
        r"depth 2, one matrix under $g^2$: $\eta = 1 / (2 \epsilon_1 y_1^2)$",
    ),
    (
        layer_descent(start, target, np.sqrt(inverse_ratio) / length**3),
        SKY,
        "D",
        r"depth 2, its two layers: $\eta = (y_1 / \epsilon_1)^{1/2} / y_1^3$",
    ),
    (
        descent(2, start, target, always / length**3),
        GREEN,
        "s",
        r"depth 2, safe from every start: $\eta = 5.2 / y_1^3$",
    ),
    (descent(1, start, target, 2 / length**2), BLACK, "", r"depth 1: $\eta = 2 / y_1^2$"),
):
    losses = [np.sum((w - target) ** 4) / 4 for w in islice(points, 4000)]
    loss.loglog(np.arange(1, 4001), losses, color=colour)
    loss.plot([], [], color=colour, marker=marker, markersize=5, label=label)
loss.set_title(
    rf"Depth 2 is faster ($y_1 = {length:.0f} \, y_2$, $y_1 / \epsilon_1 = {inverse_ratio:.0f}$)",
    fontsize=11,
)
loss.set(xlabel="step (the start is step 1)", ylabel="loss / $y_2^4$", ylim=(1e-6, 1e6))

for predicted, gained, ratios, marker, colour in (
    (guide / 4, gains[-1], inverse_ratios, "o", BLUE),
    (np.sqrt(guide) / 2, layer_gains, inverse_ratios[wide], "D", SKY),
    (np.full(2, always / 2), safe_gains[-1], inverse_ratios, "s", GREEN),
):
    gain.loglog(guide, predicted, color="0.6", linewidth=1)
    arrived = gained > 0
    gain.loglog(ratios[arrived], gained[arrived], marker, color=colour, markersize=5)
gain.axhline(1, color=BLACK)
gain.plot([], [], color="0.6", linewidth=1, label="predicted speed-ups")
gain.axvline(16 * Y1**2, color=BLUE, linestyle=":")
for law, colour, place, side in (
    (r"$y_1 / (4 \epsilon_1)$", BLUE, (150, 100), "right"),
    (r"$(y_1 / \epsilon_1)^{1/2} / 2$", "#2C7FB8", (1e3, 9), "left"),
    (f"constant, {always / 2:.1f}", GREEN, (1e3, 1.4), "left"),
    (
        "just before the limit (dotted) steps\nlead $w_2$ straight to its target,\n"
        "beyond it $w_2$ is unstable",
        BLUE,
        (1.3e4, 1.1e4),
        "right",
    ),
):
    figure.text(*place, law, color=colour, ha=side, transform=gain.transData)
gain.set_title(rf"Two speed-ups grow near zero ($y_1 = {Y1:.0f} \, y_2$)", fontsize=11)
gain.set(xlabel=NEARNESS, ylabel=GAIN, ylim=(None, 1.5e5))
for panel in (loss, gain):
    panel.grid(alpha=0.25)
figure.legend(title=SETTING, frameon=False, loc="outside lower center", ncols=2)
figure.suptitle(
    "At the predicted rate depth two is faster, the more so the nearer to zero it starts\n"
    "$g^2$: the metric that two balanced layers give their product"
)
figure.savefig("plot_two_point_quartic.png", dpi=150)

# %%
# Dotted lines, in the colour of each :math:`y_1`, are the limits beyond which the second coordinate
# is unstable. To converge is to end below 1/1000 of the loss at the start.

figure, (rate_map, limits) = plt.subplots(1, 2, figsize=(9, 6.2), layout="constrained")
shades = ListedColormap(["white", "#D9D9D9"])
rate_map.pcolormesh(1 / map_ratios, map_scales, stable, cmap=shades, rasterized=True)
predicted = r"predicted: $\eta = 1 / (2 \epsilon_1 y_1^2)$, speed-up $y_1 / (4 \epsilon_1)$"
rate_map.loglog(1 / map_ratios, 1 / (2 * map_ratios), color="0.3", label=predicted)
rate_map.axhline(always, color=GREEN, label=r"safe from every start: $\eta = 5.2 / y_1^3$")
rate_map.axhline(8 * Y1**2, color=BLUE, linestyle=":")
rate_map.set_title(rf"Rates that converge, shaded ($y_1 = {Y1:.0f} \, y_2$)", fontsize=11)
rate_map.set(
    xlabel=NEARNESS,
    ylabel=r"learning rate $\eta$, in units of $1 / y_1^3$",
    xlim=1 / map_ratios[[-1, 0]],
    ylim=map_scales[[0, -1]],
)
limits.loglog(guide, guide / 4, color="0.3")
for row, (marker, colour) in enumerate((("^", "#CC79A7"), ("s", "#E69F00"), ("o", BLUE))):
    arrived = gains[row] > 0
    limits.loglog(
        inverse_ratios[arrived],
        gains[row][arrived],
        marker,
        color=colour,
        markersize=10 - 2.5 * row,
        label=rf"measured, $y_1 = {lengths[row]:.0f} \, y_2$",
    )
    limits.axvline(16 * lengths[row] ** 2, color=colour, linestyle=":")
limits.set_title("Speed-ups at the predicted rate, to their limits", fontsize=11)
limits.set(xlabel=NEARNESS, ylabel=GAIN)
for panel in (rate_map, limits):
    panel.grid(alpha=0.25)
limits.plot([], [], color="0.3", linestyle=":", label="beyond it $w_2$ is unstable")
figure.legend(title=SETTING, frameon=False, loc="outside lower center", ncols=2)
figure.suptitle("The predicted speed-up needs a rate in a narrow band, and ends at a limit")
figure.savefig("plot_two_point_quartic_limits.png", dpi=150)
plt.show()
