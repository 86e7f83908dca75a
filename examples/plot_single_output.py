r"""
One output: an adaptive step size and momentum
==============================================

For a network with one output the end-to-end matrix is a row :math:`w`, and depth :math:`N` turns
the gradient :math:`p` into (Arora, Cohen and Hazan 2018, Claim 2)

.. math:: A_{N,w}(p) = \|w\|^{2-2/N} \big(p + (N-1) \, \mathrm{Pr}_w \, p\big).

The factor in front is an adaptive step size, small near the origin and large far from it. The
projection on :math:`w`, where the run has come from if it started near zero, is like momentum.
This example draws both along gradient descent on the diabetes data with the :math:`\ell_4` loss.

Run it with ``python examples/plot_single_output.py``; it writes ``plot_single_output.png``.
"""

# %%
# The problem
# -----------
# The progress of diabetes from ten standardized measurements.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from pymanopt.optimizers import SteepestDescent
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

import riemdln

inputs, outputs = load_diabetes(return_X_y=True)
inputs = StandardScaler().fit_transform(inputs)
outputs = (outputs - outputs.mean()) / outputs.std()


def cost(w):
    """The mean of (w x - y)^4 / 4 over the patients."""
    return anp.mean((inputs @ w.T - outputs[:, None]) ** 4) / 4


# %%
# Descent, step by step
# ---------------------
# Along each run the Riemannian gradient is compared with the two terms of Claim 2.

DEPTHS, STEPS = [1, 2, 3, 5], 60
start = np.random.default_rng(0).standard_normal((1, 10))
start *= 0.1 / np.linalg.norm(start)
runs = {}
for depth in DEPTHS:
    manifold = riemdln.FullRank(1, 10, riemdln.DeepLinearMetric(depth))
    problem = pymanopt.Problem(manifold, pymanopt.function.autograd(manifold)(cost))
    optimizer = SteepestDescent(
        riemdln.FixedStep(0.2), max_iterations=STEPS, verbosity=0, log_verbosity=1
    )
    log = optimizer.run(problem, initial_point=start).log["iterations"]
    rates, alignments, worst = [], [], 0.0
    for w in log["point"]:
        gradient = problem.euclidean_gradient(w)
        norm = np.linalg.norm(w)
        momentum = (depth - 1) * w * np.sum(w * gradient) / norm**2
        rate = norm ** (2 - 2 / depth)
        difference = rate * (gradient + momentum) - problem.riemannian_gradient(w)
        worst = max(worst, np.linalg.norm(difference) / np.linalg.norm(gradient))
        rates.append(rate)
        alignments.append(np.linalg.norm(momentum) / np.linalg.norm(gradient))
    assert worst < 1e-13
    print(
        f"depth {depth}: Claim 2 holds to {worst:.0e}, adaptive step size from {rates[0]:.3f} to "
        f"{rates[-1]:.3f}, momentum up to {max(alignments):.2f} gradients"
    )
    runs[depth] = np.array(log["cost"]), np.array(rates), np.array(alignments)

# Depth 1 has neither; near the origin a deeper network takes smaller steps.
assert np.all(runs[1][1] == 1)
assert np.all(runs[1][2] == 0)
assert runs[2][1][0] > runs[3][1][0] > runs[5][1][0]

# %%
# The figure
# ----------

colours = dict(zip(DEPTHS, ["#000000", "#0072B2", "#D55E00", "#009E73"], strict=True))
figure, (loss, rate, momentum) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for depth, (costs, rates, alignments) in runs.items():
    style = {"color": colours[depth], "label": f"depth {depth}"}
    loss.semilogy(costs, **style)
    rate.semilogy(rates, **style)
    momentum.plot(alignments, **style)
loss.set(title="From near zero\na deeper network waits longer", ylabel=r"$\ell_4$ loss")
rate.set(
    title="The adaptive step size grows\nwith the distance from zero",
    ylabel=r"$\|w\|^{2-2/N}$",
)
momentum.set(
    title="The momentum-like term is at most\n$N-1$ gradients long",
    ylabel=r"$(N-1) \|\mathrm{Pr}_w p\| / \|p\|$",
)
for panel in (loss, rate, momentum):
    panel.set_xlabel("step (learning rate 0.2)")
    panel.grid(alpha=0.25)
loss.legend(frameon=False)
figure.savefig("plot_single_output.png", dpi=150)
plt.show()
