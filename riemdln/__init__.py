"""riemdln: the Riemannian geometry of deep linear networks.

A deep linear network of depth N moves its end-to-end matrix W by gradient flow under a metric
g^N on full-rank matrices. riemdln gives this metric, for every depth from 1 to infinity, to
pymanopt's optimizers, and the networks and flows to compare it with.
"""

from importlib.metadata import version

from riemdln import checks, geodesics, kernels, retractions, transports
from riemdln._rank import effective_rank
from riemdln.completion import MatrixCompletion
from riemdln.flows import (
    BalancingFlow,
    Flow,
    FlowError,
    LangevinFlow,
    NetworkFlow,
    NetworkLangevinFlow,
    Sample,
    balancing_flow,
    free_energy,
    gradient_flow,
    langevin_flow,
    load_flow,
    network_flow,
    network_langevin_flow,
    sample,
)
from riemdln.geodesics import GeodesicError
from riemdln.landscape import CriticalPoint, critical_points, escape_time
from riemdln.line_search import FixedStep
from riemdln.manifolds import FixedRank, FullRank, PositiveDefinite
from riemdln.metrics import DeepLinearMetric, KroneckerMetric, Metric, MetricAt, SpectralMetric
from riemdln.networks import (
    balanced_layers,
    end_to_end,
    end_to_end_velocity,
    imbalance,
    imbalances,
    layer_gradients,
    nearest_imbalance,
    random_layers,
)
from riemdln.stability import (
    Spectrum,
    max_stable_step,
    network_sharpness,
    sharpness,
    spectrum,
)
from riemdln.velocity import velocity_error
from riemdln.weight_decay import (
    CollapseThreshold,
    collapse_threshold,
    decayed_singular_value,
    layer_decay,
)

__version__ = version("riemdln")

__all__ = [
    "BalancingFlow",
    "CollapseThreshold",
    "CriticalPoint",
    "DeepLinearMetric",
    "FixedRank",
    "FixedStep",
    "Flow",
    "FlowError",
    "FullRank",
    "GeodesicError",
    "KroneckerMetric",
    "LangevinFlow",
    "MatrixCompletion",
    "Metric",
    "MetricAt",
    "NetworkFlow",
    "NetworkLangevinFlow",
    "PositiveDefinite",
    "Sample",
    "SpectralMetric",
    "Spectrum",
    "balanced_layers",
    "balancing_flow",
    "checks",
    "collapse_threshold",
    "critical_points",
    "decayed_singular_value",
    "effective_rank",
    "end_to_end",
    "end_to_end_velocity",
    "escape_time",
    "free_energy",
    "geodesics",
    "gradient_flow",
    "imbalance",
    "imbalances",
    "kernels",
    "langevin_flow",
    "layer_decay",
    "layer_gradients",
    "load_flow",
    "max_stable_step",
    "nearest_imbalance",
    "network_flow",
    "network_langevin_flow",
    "network_sharpness",
    "random_layers",
    "retractions",
    "sample",
    "sharpness",
    "spectrum",
    "transports",
    "velocity_error",
]
