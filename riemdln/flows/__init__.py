"""Gradient flows as ordinary differential equations: on a manifold, and on a network's layers."""

from riemdln.flows._files import load_flow
from riemdln.flows._gradient import gradient_flow
from riemdln.flows._network import network_flow
from riemdln.flows._results import Flow, FlowError, NetworkFlow

__all__ = ["Flow", "FlowError", "NetworkFlow", "gradient_flow", "load_flow", "network_flow"]
