r"""
Through a saddle: small singular values take their time
=======================================================

A small singular value grows slowly, so a flow stays near lower rank for long: the smaller the
value, the longer. `riemdln.gradient_flow` follows such values over thirty orders of magnitude.

.. image:: images/sphx_glr_plot_through_a_saddle_001.png
   :alt: The smaller the second singular value starts, the later it rises, most so at great depth
   :class: figures-first
   :target: ../_images/sphx_glr_plot_through_a_saddle_001.png

.. image:: images/sphx_glr_plot_through_a_saddle_002.png
   :alt: A flow of the entries loses a singular value below 1e-9, and its stays are too short
   :class: figures-first
   :target: ../_images/sphx_glr_plot_through_a_saddle_002.png

The guide tells how :doc:`flows </guide/flows>` treat small singular values and :doc:`where runs end
</guide/where_runs_end>`. The theory has :ref:`the flow <flow>` and :ref:`escape from lower rank
<escape>`.

Run it with ``python examples/plot_through_a_saddle.py``; it writes ``plot_through_a_saddle.png``
and ``plot_through_a_saddle_entries.png``.
"""

# %%
# Starts near a saddle
# --------------------
# Take the matrix of rank one that has the first singular value of the target and its vectors, and
# nothing of the second. There the flow of :math:`g^N` rests, though the loss can still fall. The
# speed of the second singular value (Arora, Cohen, Hu and Luo 2019),
#
# .. math:: \dot s_2 = \theta_N(s_2, s_2) \, u_2^T (-\nabla E) \, v_2, \qquad
#           \theta_N(s, s) = N s^{2 - 2/N}, \qquad \theta_\infty(s, s) = s^2,
#
# is zero where :math:`s_2` is. So this is a saddle. A flow with a small :math:`s_2` comes to it,
# stays, and leaves.
#
# The target has the singular values 3 and 1, the start 1 and :math:`s_2(0)`, with singular vectors
# that are turned a little. It is given as a triple (u, s, vt), because the entries of the product
# would round the small singular value away. A cost of a stack of matrices lets many starts flow at
# once.

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
from scipy.integrate import quad, solve_ivp

import riemdln

TARGET_VALUES = np.array([3.0, 1.0])


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


left, right = rotation(0.4), rotation(1.1)
target = left * TARGET_VALUES @ right.T


def problem_at(depth):
    """Half the squared distance from the target, under the metric of one depth."""
    manifold = riemdln.FullRank(2, 2, riemdln.DeepLinearMetric(depth))

    @pymanopt.function.autograd(manifold)
    def cost(W):
        return anp.sum((W - target) ** 2, axis=(-2, -1)) / 2

    return pymanopt.Problem(manifold, cost)


def start_at(small):
    """The start with a given s_2(0), or a stack of them."""
    s = np.stack(np.broadcast_arrays(1.0, small), axis=-1)
    u, vt = left @ rotation(0.1), (right @ rotation(-0.05)).T
    return np.broadcast_to(u, (*s.shape, 2)), s, np.broadcast_to(vt, (*s.shape, 2))


drawn = np.array([1e-1, 1e-10, 1e-20, 1e-30])
times = np.linspace(0, 40, 201)
paths = riemdln.gradient_flow(problem_at(2), start_at(drawn), times, vectorized=True)

# sphinx_gallery_thumbnail_path = "gallery/images/panel_plot_through_a_saddle_001_1.png"

# %%
# At the saddle :math:`u_2^T (-\nabla E) v_2` is the second singular value of the target, 1, so that
# at depth 2 the small singular value grows as :math:`e^{2t}`.

smallest = paths.singular_values[:, -1, 1]
away = (times > 5) & (smallest < 1e-8)
rate = np.polyfit(times[away], np.log(smallest[away]), 1)[0]
print(f"depth 2, at the saddle: s_2 grows as exp({rate:.8f} t), from {smallest[0]:.0e}")
assert abs(rate - 2) < 1e-6

# %%
# How long the flow stays
# -----------------------
# The stay grows as :math:`\ln(1 / s_2(0))` at depth 2, as :math:`s_2(0)^{-(1 - 2/N)}` at greater
# depths and as :math:`1 / s_2(0)` at infinite depth. It ends when :math:`s_2` is half of what it
# will be, 1/2. The equation says when that is. Soon the singular vectors are those of the target,
# and :math:`u_2^T (-\nabla E) v_2 = 1 - s_2`. Then the equation is one of :math:`s_2` alone, and
# the time is an integral,
#
# .. math:: T = \int_{s_2(0)}^{1/2} \frac{ds}{\theta_N(s, s) \, (1 - s)}.
#
# At depth 2 this is :math:`\tfrac12 \ln \frac{1 - s_2(0)}{s_2(0)}`. At greater depths the stay is
# long and the flow stiff: it takes an implicit method.


def predicted_stay(depth, small):
    def integrand(log_s):
        s = np.exp(log_s)
        theta = s**2 if np.isinf(depth) else depth * s ** (2 - 2 / depth)
        return s / theta / (1 - s)

    return quad(integrand, np.log(small), np.log(0.5), epsrel=1e-10, limit=200)[0]


def half_way(time, W, cost, gradient_norm):
    return W.s[1] >= TARGET_VALUES[1] / 2


SMALL = {
    2: 10.0 ** -np.array([1, *range(3, 31, 3)]),
    3: 10.0 ** -np.array([1, 5, 10, 15]),
    np.inf: 10.0 ** -np.array([1, 3, 5]),
}
LAW = {2: "ln(1 / s_2(0)) / 2", 3: "s_2(0)^(-1/3)", np.inf: "1 / s_2(0)"}
predicted = {
    depth: np.array([predicted_stay(depth, s) for s in small]) for depth, small in SMALL.items()
}
many = riemdln.gradient_flow(
    problem_at(2), start_at(SMALL[2]), [0.0, 100.0], stop=half_way, vectorized=True
)
stays = {2: many.end_times}
for depth in (3, np.inf):
    stays[depth] = np.array(
        [
            riemdln.gradient_flow(
                problem_at(depth),
                start_at(small),
                [0.0, 2 * stay],
                method="BDF",
                rtol=1e-6,
                stop=half_way,
            ).end_times
            for small, stay in zip(SMALL[depth], predicted[depth], strict=True)
        ]
    )
for depth, small in SMALL.items():
    error = np.abs(stays[depth] / predicted[depth] - 1)
    print(
        f"depth {depth}: s_2(0) from {small[0]:.0e} to {small[-1]:.0e}, stays from "
        f"{stays[depth][0]:.2f} to {stays[depth][-1]:.8g}, about {LAW[depth]}; as predicted to "
        f"{error.max():.1e}, the longest to {error[-1]:.1e}"
    )
    assert error.max() < 5e-3
    assert error[-1] < 2e-4

# %%
# A flow of the entries
# ---------------------
# The entries of a matrix cannot hold a singular value of :math:`10^{-30}` beside one of 3. Here
# SciPy integrates the same equation, :math:`\dot W = -A_W(\nabla E)`, on the four entries of
# :math:`W`, with the same method and the same tolerances. An error of an entry is an error of every
# singular value, the small one included. The integrator's errors, here of about :math:`10^{-9}`,
# lead the flow out of the saddle after a stay of 10. Tighter tolerances help little: entries of
# size 3 are rounded to :math:`10^{-16}`, and the stay from there is 18.

metric = riemdln.DeepLinearMetric(2)


def velocity(time, entries):
    W = entries.reshape(2, 2)
    return -metric.sharp(W, W - target).ravel()


def second_value(entries):
    return np.linalg.svd(entries.reshape(-1, 2, 2), compute_uv=False)[:, 1]


def leaves(time, entries):
    return second_value(entries)[0] - TARGET_VALUES[1] / 2


leaves.terminal, leaves.direction = True, 1


def flow_of_entries(small, **options):
    u, s, vt = start_at(small)
    tolerances = {"rtol": 1e-8, "atol": 1e-10}
    start = (u * s @ vt).ravel()
    return solve_ivp(velocity, (0, 100), start, method="DOP853", **tolerances, **options)


entry_stays = np.array([flow_of_entries(small, events=leaves).t[-1] for small in SMALL[2]])
for small, stay, entry_stay in zip(SMALL[2], stays[2], entry_stays, strict=True):
    print(f"s_2(0) = {small:.0e}: a stay of {stay:.2f}, of the entries {entry_stay:.2f}")
assert np.allclose(entry_stays[SMALL[2] > 1e-5], stays[2][SMALL[2] > 1e-5], rtol=1e-2)
assert np.all(entry_stays[SMALL[2] < 1e-11] < 0.9 * stays[2][SMALL[2] < 1e-11])
assert entry_stays[-1] < stays[2][-1] / 2

# %%
# The figures
# -----------
# At depth 2 the curves begin at :math:`10^{-1}`, :math:`10^{-10}`, :math:`10^{-20}` and
# :math:`10^{-30}`.

COLOURS = {2: "#0072B2", 3: "#D55E00", np.inf: "#CC79A7"}
SETTING = (
    r"Gradient flow of $\|W - T\|^2 / 2$; the 2 x 2 target $T$ has the singular values 3 and 1."
    "\n"
    "The start has the first singular value 1; the second, $s_2$, grows from its start to 1."
)
figure, (steps, laws) = plt.subplots(1, 2, figsize=(9, 5.6), layout="constrained")
for k, small in enumerate(drawn):
    s_2 = paths.singular_values[:, k, 1]
    steps.plot(times, s_2, color=COLOURS[2])
    middle = np.interp(0.5, s_2, times)
    name = f"from $10^{{{np.log10(small):.0f}}}$"
    steps.annotate(name, (middle - 0.6, 0.5), rotation=90, ha="right", va="center")
steps.set_title("The smaller $s_2$ starts, the longer it waits (depth 2)", fontsize=11)
steps.set(xlabel="time", ylabel="second singular value $s_2$", xlim=(-3, 40))
for (depth, small), colour in zip(SMALL.items(), COLOURS.values(), strict=True):
    label = f"depth {depth}" if depth < np.inf else r"depth $\infty$"
    laws.loglog(small, predicted[depth], color=colour, linewidth=1)
    laws.loglog(small, stays[depth], "o", color=colour, markersize=5, label=label)
laws.plot([], [], color="0.5", linewidth=1, label="predicted")
laws.set_title("How long $s_2$ waits, by depth", fontsize=11)
laws.set(xlabel="$s_2$ at the start", ylabel="time until $s_2 = 1 / 2$")
laws.invert_xaxis()
for panel in (steps, laws):
    panel.grid(alpha=0.25)
figure.legend(title=SETTING, frameon=False, loc="outside lower center", ncols=4)
figure.suptitle(
    "The smaller a singular value starts, the longer it waits, and far longer at great depth"
)
figure.savefig("plot_through_a_saddle.png", dpi=150)

# %%
# A flow of the entries is exact only as long as :math:`s_2` is above its errors.

BLUE, ORANGE = "#0072B2", "#E69F00"
figure, (growth, lasting) = plt.subplots(1, 2, figsize=(9, 5.6), layout="constrained")
for k, small in enumerate(drawn):
    growth.semilogy(times, paths.singular_values[:, k, 1], color=BLUE)
    of_entries = flow_of_entries(small, t_eval=times[times < 20])
    growth.semilogy(of_entries.t, second_value(of_entries.y.T), "--", color=ORANGE)
growth.lines[0].set_label("riemdln.gradient_flow, $W$ as (u, s, vt)")
growth.lines[1].set_label("SciPy, the entries of $W$")
growth.annotate("three starts, one curve", (9, 1e1), color=ORANGE)
growth.set_title(r"From $10^{-10}$, $10^{-20}$ and $10^{-30}$ entries grow alike", fontsize=11)
growth.set(
    xlabel="time",
    ylabel="second singular value $s_2$",
    ylim=(1e-31, 1e4),
    yticks=10.0 ** np.arange(-30, 1, 10),
)
lasting.semilogx(SMALL[2], predicted[2], color="0.5", label="predicted")
lasting.semilogx(SMALL[2], stays[2], "o", color=BLUE)
lasting.semilogx(SMALL[2], entry_stays, "s", color=ORANGE, markersize=4)
lasting.set_title("Below $10^{-9}$ the entries grow too early", fontsize=11)
lasting.set(xlabel="$s_2$ at the start", ylabel="time until $s_2 = 1 / 2$", ylim=(0, 38))
lasting.invert_xaxis()
for panel in (growth, lasting):
    panel.grid(alpha=0.25)
figure.legend(title=SETTING, frameon=False, loc="outside lower center", ncols=3)
figure.suptitle(
    "A flow of the entries forgets how small a singular value was, and grows too early (depth 2)"
)
figure.savefig("plot_through_a_saddle_entries.png", dpi=150)
plt.show()
