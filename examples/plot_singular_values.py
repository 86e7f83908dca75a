r"""
Singular values are learned one after the other
===============================================

Under the flow of :math:`g^N` the singular values of the matrix move by (Arora, Cohen, Hu and Luo
2019)

.. math:: \dot s_i = -\theta_N(s_i, s_i) \, u_i^T \nabla E \, v_i, \qquad
          \theta_N(s, s) = N s^{2 - 2/N}.

The factor is small where the singular value is, so from a small start the large ones of the target
are learned first and the small ones later, the more so the deeper the network: depth prefers low
rank. This example follows the singular values at four depths and checks the equation along the way.

Run it with ``python examples/plot_singular_values.py``; it writes ``plot_singular_values.png``.
"""

# %%
# The flow
# --------
# The target has the singular values 4, 2, 1 and 1/2; the start is small and random.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt

import riemdln

DEPTHS = [1, 2, 3, np.inf]
rng = np.random.default_rng(0)
U, _, Vt = np.linalg.svd(rng.standard_normal((4, 4)))
TARGET_VALUES = np.array([4.0, 2.0, 1.0, 0.5])
target = U * TARGET_VALUES @ Vt
start = 1e-2 * (U @ Vt + 0.1 * rng.standard_normal((4, 4)))


def flow_at(depth, times):
    """The problem at one depth, and its flow at the times."""
    manifold = riemdln.FullRank(4, 4, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2) / 2

    problem = pymanopt.Problem(manifold, cost)
    return problem, riemdln.gradient_flow(problem, start, times, rtol=1e-9, atol=1e-12)


def time_to_half(times, values, value):
    """When a singular value has come half of its way."""
    return times[np.argmax(values >= value / 2)]


figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained", sharey=True)
colours = ["#000000", "#0072B2", "#D55E00", "#009E73"]
spreads = {}
for depth, panel in zip(DEPTHS, axes, strict=True):
    # Time in units in which the largest singular value takes about as long at every depth.
    scale = {1: 1.5, 2: 4.0, 3: 12.0, np.inf: 450.0}[depth]
    times = np.linspace(0, 4 * scale, 401)
    problem, flow = flow_at(depth, times)
    values = np.linalg.svd(flow.points, compute_uv=False)

    # The equation, against central differences of the singular values where all are apart.
    k = int(np.argmax(values[:, 0] > 0.3 * TARGET_VALUES[0]))
    h = 1e-6 * scale
    _, near = flow_at(depth, [0.0, times[k] - h, times[k], times[k] + h])
    measured = np.diff(np.linalg.svd(near.points[[1, 3]], compute_uv=False), axis=0)[0] / (2 * h)
    left, s, right = np.linalg.svd(near.points[2])
    slopes = np.diag(left.T @ problem.euclidean_gradient(near.points[2]) @ right.T)
    theta = s**2 if np.isinf(depth) else depth * s ** (2 - 2 / depth)
    error = np.max(np.abs(measured + theta * slopes)) / np.max(np.abs(measured))
    assert error < 1e-3

    halves = [time_to_half(times, values[:, i], TARGET_VALUES[i]) for i in range(3)]
    spreads[depth] = halves[2] / halves[0]
    print(
        f"depth {depth}: the equation holds to {error:.0e}; the singular value 1 comes half-way "
        f"{spreads[depth]:.1f} times as late as 4"
    )
    for i, colour in enumerate(colours):
        panel.plot(times, values[:, i], color=colour, label=f"$s_{i + 1}$")
        panel.axhline(TARGET_VALUES[i], color=colour, linewidth=0.6, linestyle=":")
    name = r"depth $\infty$" if np.isinf(depth) else f"depth {depth}"
    panel.set(title=name, xlabel="time")
    panel.grid(alpha=0.25)

# %%
# Depth separates the times at which the singular values are learned.

assert spreads[1] < spreads[2] < spreads[3] < spreads[np.inf]
axes[0].set_ylabel("singular value")
axes[-1].legend(frameon=False, loc="center right")
figure.suptitle("The deeper, the more one after the other are the singular values learned")
figure.savefig("plot_singular_values.png", dpi=150)
plt.show()
