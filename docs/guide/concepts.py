"""The pictures of concepts.md, which names the function of each."""

import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.55"
CIRCLE = np.array([np.cos(np.linspace(0, 2 * np.pi, 129)), np.sin(np.linspace(0, 2 * np.pi, 129))])
TWO = riemdln.DeepLinearMetric(2)


def arrow(panel, tail, head, colour, **style):
    """Draw an arrow from one point of the plane to another."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0} | style
    panel.annotate("", head, tail, arrowprops=style)


def unit_ball(metric, w, length):
    """Where the steps of one length end that start at a vector w of the plane."""
    steps = metric.root(np.tile(w, (len(CIRCLE.T), 1, 1)), CIRCLE.T[:, None, :])[:, 0]
    return (w + length * steps).T


def metric():
    """Steps of one length under the Euclidean metric and under that of two layers."""
    panels = plt.subplots(1, 2, figsize=(6, 1.9), sharex=True, sharey=True)[1]
    names = ["Euclidean", "two layers"]
    for panel, depth, name in zip(panels, (1, 2), names, strict=True):
        for w in np.stack(np.meshgrid([-2, -1, 0, 1, 2], [-1, 0, 1]), -1).reshape(-1, 2):
            if np.any(w):
                ball = unit_ball(riemdln.DeepLinearMetric(depth), w.astype(float), 0.2)
                panel.fill(*ball, color=BLUE, alpha=0.3)
                panel.plot(*w, ".", color="black")
        panel.plot(0, 0, "x", color=ORANGE)
        panel.set(title=name, aspect="equal", xlabel="$w_1$")
    panels[0].set(ylabel="$w_2$")


def cometric():
    """The gradient, and what the cometric makes of it: the best step of one length."""
    panel = plt.subplots(figsize=(5, 3.2))[1]
    four = riemdln.DeepLinearMetric(4)
    w, minimum = np.array([1.6, 0.4]), np.array([0.9, 1.9])
    P = w - minimum
    step = four.sharp(w[None], P[None])[0]
    step = 0.5 / np.sqrt(P @ step) * step
    grid = np.meshgrid(np.linspace(-0.4, 3.4, 100), np.linspace(-0.7, 2.1, 100))
    costs = (grid[0] - minimum[0]) ** 2 + (grid[1] - minimum[1]) ** 2
    panel.contour(*grid, costs, 14, colors=GREY, linewidths=0.6)
    panel.fill(*unit_ball(four, w, 0.5), color=BLUE, alpha=0.2)
    arrow(panel, w, w - 0.45 * P, ORANGE)
    arrow(panel, w, w - step, BLUE)
    panel.plot(*minimum, "*", color="black", markersize=10)
    panel.plot(*w, "o", color="black")
    panel.text(*(w - 0.45 * P + [0.05, 0.05]), r"$-\nabla E$", color=ORANGE)
    panel.text(*(w - step + [-0.05, 0.05]), r"$-A_w(\nabla E)$", color=BLUE, ha="right")
    panel.set(aspect="equal", xlabel="$w_1$", ylabel="$w_2$")


def sharp_and_flat():
    """Sharp takes a circle of covectors to an ellipse of tangent vectors; flat takes it back."""
    left, middle, right = plt.subplots(1, 3, figsize=(6, 2.6), width_ratios=[1, 0.35, 1])[1]
    w = np.array([1.2, 0.7])
    ellipse = TWO.sharp(np.tile(w, (129, 1, 1)), CIRCLE.T[:, None, :])[:, 0].T
    for panel, curve, colour, title in (
        (left, CIRCLE, ORANGE, "covectors P"),
        (right, ellipse, BLUE, "tangent vectors X"),
    ):
        panel.plot(*curve, color=colour)
        for k, marker in ((10, "o"), (42, "s"), (90, "^")):
            panel.plot(*curve[:, k], marker, color="black")
        panel.set(title=title, aspect="equal", xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))
    middle.set(xlim=(0, 1), ylim=(0, 1))
    middle.axis("off")
    for y, tail, head, name in ((0.6, 0, 1, "sharp: $A_w$"), (0.3, 1, 0, "flat: $A_w^{-1}$")):
        arrow(middle, (tail, y), (head, y), "black", lw=1.2)
        middle.text(0.5, y + 0.04, name, ha="center")


def kernel():
    """A gradient in the frame, the kernel, and their product entry by entry."""
    panels = plt.subplots(1, 3, figsize=(6, 2.4))[1]
    s = np.array([3.0, 1.5, 0.7, 0.1])
    in_frame = np.sign(np.random.default_rng(3).standard_normal((4, 4)))
    theta = TWO.kernel(s[:, None], s)
    titles = ["$U^T P V$", r"$\theta(s_i, s_j)$", "$U^T A_W(P) V$"]
    matrices = (in_frame, theta, theta * in_frame)
    for panel, values, title, sign in zip(
        panels, matrices, titles, [r"$\times$", "=", ""], strict=True
    ):
        panel.imshow(values, cmap="RdBu_r", vmin=-6, vmax=6)
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 4 else "black"
            panel.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
        panel.set(title=title, xticks=range(4), xticklabels=s, yticks=[])
        panel.text(1.12, 0.5, sign, transform=panel.transAxes, ha="center", va="center")
    panels[0].set(yticks=range(4), yticklabels=s)


def low_rank():
    """On 1 x 1 matrices: the cometric goes to zero and the metric to infinity."""
    panel = plt.subplots(figsize=(5, 2.8))[1]
    s = np.linspace(0.004, 1, 400)
    for depth, line in ((2, "-"), (3, "--")):
        theta = riemdln.DeepLinearMetric(depth).kernel(s, s)
        panel.plot(s, theta, line, color=BLUE, label=f"cometric, depth {depth}")
        panel.plot(s, 1 / theta, line, color=ORANGE, label=f"metric, depth {depth}")
    panel.set(xlabel="singular value s", ylim=(0, 6), xlim=(0, 1))
    panel.legend(frameon=False)


def layer_plane(panel, products=(0.25, 1.0, 2.25)):
    """The plane of two layers a and b of one neuron, with the pairs of one product."""
    a = np.linspace(0.02, 2.5, 300)
    for w in products:
        panel.plot(a, w / a, color=GREY, linewidth=1)
        panel.text(2.42, w / 1.95 + 0.12, f"w = {w:g}", color="0.35", ha="right")
    panel.set(xlim=(0, 2.5), ylim=(0, 2.5), aspect="equal", xlabel="$W_1$", ylabel="$W_2$")


def balance():
    """The balanced layers of each product are those nearest to zero."""
    panel = plt.subplots(figsize=(3.6, 3.4))[1]
    layer_plane(panel)
    panel.plot([0, 2.5], [0, 2.5], color=BLUE)
    panel.plot([0.5, 1, 1.5], [0.5, 1, 1.5], "o", color=BLUE)
    panel.text(1.85, 1.7, "balanced", color=BLUE)
    panel.plot(0.5, 2, "s", color=ORANGE)
    panel.text(0.57, 2.1, "not balanced", color=ORANGE, backgroundcolor="white")


def imbalance():
    """Gradient flows of two layers, each with its own difference of squares."""
    panel = plt.subplots(figsize=(3.6, 3.4))[1]
    layer_plane(panel, products=[2.25])
    manifold = riemdln.FullRank(1, 1, TWO)
    numpy = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy(lambda W: np.sum((W - 2.25) ** 2) / 2),
        euclidean_gradient=numpy(lambda W: W - 2.25),
    )
    for first in (-2.0, -0.5, 0.0, 0.5, 2.0):
        start = np.array([[0.1]])
        layers = riemdln.balanced_layers(start, 2, imbalance=first)
        flow = riemdln.network_flow(problem, layers, np.linspace(0, 6, 200))
        path = np.array(flow.layers)[:, :, 0, 0]
        colour = ORANGE if first else BLUE
        panel.plot(*path.T, color=colour)
        a, b = path[np.argmax(flow.points[:, 0, 0] > 0.7)]
        angle = np.degrees(np.arctan2(a, b))  # the flow goes along (W_2, W_1)
        label = f"$\\lambda = {first:g}$"
        style = {"rotation": angle, "rotation_mode": "anchor", "va": "bottom", "fontsize": 9}
        panel.text(a, b + 0.03, label, color=colour, ha="center", **style)


def horizontal_lift():
    """Of all motions of the layers that change the product by X, the shortest."""
    panel = plt.subplots(figsize=(3.6, 3.6))[1]
    layer_plane(panel, products=[1.0])
    layers = [np.array([[1.0]]), np.array([[1.0]])]
    X = np.array([[0.8]])
    a, b = (float(G[0, 0]) for G in riemdln.layer_gradients(layers, TWO.flat(np.eye(1), X)))
    for k in (-0.7, -0.35, 0.35, 0.7):
        arrow(panel, (1, 1), (1 + a + k, 1 + b - k), ORANGE, lw=1)
    arrow(panel, (1, 1), (1 + a, 1 + b), BLUE, lw=2.5)
    panel.plot(1, 1, "o", color="black")
    panel.plot([], [], color=BLUE, linewidth=2.5, label="horizontal lift of X")
    panel.plot([], [], color=ORANGE, linewidth=1, label="other motions that move w by X")
    panel.legend(loc="lower center", bbox_to_anchor=(0.45, 1), frameon=False)


def entropy():
    """The entropy of 2 x 2 matrices against their second singular value, by depth."""
    panel = plt.subplots(figsize=(5, 2.8))[1]
    s = np.linspace(0, 1, 100)
    W = np.zeros((100, 2, 2))
    W[:, 0, 0], W[:, 1, 1] = 1, s
    for depth, colour in ((2, BLUE), (3, ORANGE), (np.inf, "#CC79A7")):
        label = r"depth $\infty$" if np.isinf(depth) else f"depth {depth}"
        panel.plot(s, riemdln.DeepLinearMetric(depth).entropy(W), color=colour, label=label)
    panel.set(xlabel="$s_2$, beside $s_1 = 1$", ylabel="entropy", xlim=(0, 1))
    panel.legend(frameon=False)
