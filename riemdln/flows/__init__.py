"""Flows on a manifold and on a network's layers: down a gradient, and with noise."""

from riemdln.flows._balancing import balancing_flow
from riemdln.flows._files import load_flow
from riemdln.flows._free_energy import free_energy
from riemdln.flows._gradient import gradient_flow
from riemdln.flows._langevin import langevin_flow
from riemdln.flows._network import network_flow
from riemdln.flows._network_langevin import network_langevin_flow
from riemdln.flows._results import (
    BalancingFlow,
    Flow,
    FlowError,
    LangevinFlow,
    NetworkFlow,
    NetworkLangevinFlow,
)
from riemdln.flows._sample import Sample, sample

__all__ = [
    "BalancingFlow",
    "Flow",
    "FlowError",
    "LangevinFlow",
    "NetworkFlow",
    "NetworkLangevinFlow",
    "Sample",
    "balancing_flow",
    "free_energy",
    "gradient_flow",
    "langevin_flow",
    "load_flow",
    "network_flow",
    "network_langevin_flow",
    "sample",
]
