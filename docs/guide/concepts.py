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
    panels = plt.subplots(2, 1, figsize=(4.5, 5.4), sharex=True)[1]
    titles = [
        "One layer: steps of one length\nend equally far from every $w$ (dots)",
        "Two layers: they end farther where $w$ is large,\nfarthest along $w$",
    ]
    for panel, depth, title in zip(panels, (1, 2), titles, strict=True):
        for w in np.stack(np.meshgrid([-2, -1, 0, 1, 2], [-1, 0, 1]), -1).reshape(-1, 2):
            if np.any(w):
                ball = unit_ball(riemdln.DeepLinearMetric(depth), w.astype(float), 0.2)
                panel.fill(*ball, color=BLUE, alpha=0.3)
                panel.plot(*w, ".", color="black")
        panel.plot(0, 0, "x", color=ORANGE)
        panel.set_title(title, fontsize=10.5)
        panel.set(aspect="equal", xlim=(-2.8, 2.8), ylim=(-1.6, 1.6), ylabel="$w_2$")
    panels[1].set(xlabel="$w_1$")


def cometric():
    """The gradient, and what the cometric makes of it: the best step of one length."""
    panel = plt.subplots(figsize=(4.5, 4))[1]
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
    panel.text(w[0] + 0.08, w[1] - 0.1, "$w$")
    panel.text(minimum[0] + 0.12, minimum[1] - 0.04, "minimum of $E$")
    panel.text(1.75, -0.15, "steps of\none length", color=BLUE)
    panel.set(aspect="equal", xlabel="$w_1$", ylabel="$w_2$")
    panel.set_title(
        "Of all steps of one length at depth 4, the one along\n"
        r"$-A_w(\nabla E)$ lowers the cost $E$ (grey) fastest",
        fontsize=10.5,
    )


def sharp_and_flat():
    """Sharp takes a circle of covectors to an ellipse of tangent vectors; flat takes it back."""
    panel = plt.subplots(figsize=(4.5, 4))[1]
    w = np.array([1.2, 0.7])
    ellipse = TWO.sharp(np.tile(w, (129, 1, 1)), CIRCLE.T[:, None, :])[:, 0].T
    panel.plot(*CIRCLE, color=ORANGE)
    panel.plot(*ellipse, color=BLUE)
    for k in (10, 42, 90):
        arrow(panel, CIRCLE[:, k], ellipse[:, k], "black", lw=1.2)
        panel.plot(*CIRCLE[:, k], "o", color=ORANGE)
    panel.plot([-2.6, 2.6], [-2.6 * w[1] / w[0], 2.6 * w[1] / w[0]], ":", color=GREY)
    panel.text(-2.7, -2.1, "dotted: along $w$", color="0.35")
    panel.text(0.0, -0.55, "covectors $P$", color=ORANGE, ha="center")
    panel.text(0.55, -1.95, "tangent vectors\n$X = A_w(P)$", color=BLUE)
    panel.set(aspect="equal", xlim=(-2.8, 2.8), ylim=(-2.4, 2.4))
    panel.set_title(
        "Depth 2: sharp ($A_w$, the arrows) takes the circle\n"
        "to the ellipse, and flat ($A_w^{-1}$) takes it back",
        fontsize=10.5,
    )


def kernel():
    """A gradient in the frame, the kernel, and their product entry by entry."""
    figure, panels = plt.subplots(1, 3, figsize=(4.7, 2.4))
    s = np.array([3.0, 1.0, 0.1])
    in_frame = np.sign(np.random.default_rng(3).standard_normal((3, 3)))
    theta = TWO.kernel(s[:, None], s)
    titles = ["$U^T P V$", r"$\theta(s_i, s_j)$", "$U^T A_W(P) V$"]
    matrices = (in_frame, theta, theta * in_frame)
    for panel, values, title, sign in zip(
        panels, matrices, titles, [r"$\times$", "=", ""], strict=True
    ):
        panel.imshow(values, cmap="RdBu_r", vmin=-6, vmax=6)
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 4 else "black"
            panel.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9.5)
        panel.set_title(title, fontsize=10.5)
        panel.set(xticks=range(3), xticklabels=s, yticks=[])
        panel.text(1.12, 0.5, sign, transform=panel.transAxes, ha="center", va="center")
    panels[0].set(yticks=range(3), yticklabels=s)
    figure.suptitle(
        "In the frame the cometric multiplies entry $(i, j)$\n"
        r"of a gradient $P$ by $\theta(s_i, s_j)$; here depth 2, $s = (3, 1, 0.1)$",
        fontsize=10.5,
    )


def low_rank():
    """On 1 x 1 matrices: the cometric goes to zero and the metric to infinity."""
    panel = plt.subplots(figsize=(4.5, 3.2))[1]
    s = np.linspace(0.004, 1, 400)
    for depth, line in ((2, "-"), (3, "--")):
        theta = riemdln.DeepLinearMetric(depth).kernel(s, s)
        panel.plot(s, theta, line, color=BLUE, label=rf"cometric $\theta(s, s)$, depth {depth}")
        panel.plot(s, 1 / theta, line, color=ORANGE, label=rf"metric $1 / \theta$, depth {depth}")
    panel.set(xlabel="singular value $s$", ylim=(0, 6), xlim=(0, 1))
    panel.legend(frameon=False)
    panel.set_title(
        "As a singular value $s$ goes to zero, so does\nthe cometric; the metric goes to infinity",
        fontsize=10.5,
    )


def layer_plane(panel, products=(0.25, 1.0, 2.25)):
    """The plane of two layers a and b of one neuron, with the pairs of one product."""
    a = np.linspace(0.02, 2.5, 300)
    for w in products:
        panel.plot(a, w / a, color=GREY, linewidth=1)
        panel.text(2.42, w / 1.95 + 0.12, f"$w = {w:g}$", color="0.35", ha="right")
    panel.set(xlim=(0, 2.5), ylim=(0, 2.5), aspect="equal", xlabel="$W_1$", ylabel="$W_2$")


def balance():
    """The balanced layers of each product are those nearest to zero."""
    panel = plt.subplots(figsize=(4.2, 4.2))[1]
    layer_plane(panel)
    panel.plot([0, 2.5], [0, 2.5], color=BLUE)
    panel.plot([0.5, 1, 1.5], [0.5, 1, 1.5], "o", color=BLUE)
    panel.text(1.85, 1.7, "balanced", color=BLUE)
    panel.plot(0.5, 2, "s", color=ORANGE)
    panel.text(0.57, 2.1, "not balanced", color=ORANGE, backgroundcolor="white")
    panel.set_title(
        "Two numbers as layers, $w = W_2 W_1$. Of all with\n"
        "one product, the balanced are nearest to zero",
        fontsize=10.5,
    )


def imbalance():
    """Gradient flows of two layers, each with its own difference of squares."""
    panel = plt.subplots(figsize=(4.2, 4.2))[1]
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
        panel.plot(*path[0], "o", color=colour, markersize=4)
        a, b = path[np.argmax(flow.points[:, 0, 0] > 0.7)]
        angle = np.degrees(np.arctan2(a, b))  # the flow goes along (W_2, W_1)
        label = f"$\\lambda = {first:g}$"
        style = {"rotation": angle, "rotation_mode": "anchor", "va": "bottom"}
        panel.text(a, b + 0.03, label, color=colour, ha="center", **style)
    panel.set_title(
        r"Training keeps the imbalance $\lambda = W_2^2 - W_1^2$:"
        "\nruns from $w = W_2 W_1 = 0.1$ to $w = 2.25$",
        fontsize=10.5,
    )


def horizontal_lift():
    """Of all motions of the layers that change the product by X, the shortest."""
    panel = plt.subplots(figsize=(4.2, 4.2))[1]
    layer_plane(panel, products=[1.0])
    layers = [np.array([[1.0]]), np.array([[1.0]])]
    X = np.array([[0.8]])
    a, b = (float(G[0, 0]) for G in riemdln.layer_gradients(layers, TWO.flat(np.eye(1), X)))
    for k in (-0.7, -0.35, 0.35, 0.7):
        arrow(panel, (1, 1), (1 + a + k, 1 + b - k), ORANGE, lw=1)
    arrow(panel, (1, 1), (1 + a, 1 + b), BLUE, lw=2.5)
    panel.plot(1, 1, "o", color="black")
    panel.text(1.45, 1.45, "horizontal lift of $X$", color=BLUE)
    panel.text(0.75, 2.2, "other motions that move $w$ by $X$", color=ORANGE)
    panel.set_title(
        "All arrows move $w = W_2 W_1$ by the same $X$, to\n"
        "first order; the shortest is the horizontal lift",
        fontsize=10.5,
    )


def entropy():
    """The entropy of 2 x 2 matrices against their second singular value, by depth."""
    panel = plt.subplots(figsize=(4.5, 3.2))[1]
    s = np.linspace(0, 1, 100)
    W = np.zeros((100, 2, 2))
    W[:, 0, 0], W[:, 1, 1] = 1, s
    for depth, colour in ((2, BLUE), (3, ORANGE), (np.inf, "#CC79A7")):
        label = r"depth $\infty$" if np.isinf(depth) else f"depth {depth}"
        panel.plot(s, riemdln.DeepLinearMetric(depth).entropy(W), color=colour, label=label)
    panel.set(xlabel="singular value $s_2$, beside $s_1 = 1$", ylabel="entropy", xlim=(0, 1))
    panel.legend(frameon=False)
    panel.set_title(
        "The entropy of a 2 x 2 matrix falls\nas its second singular value goes to zero",
        fontsize=10.5,
    )
