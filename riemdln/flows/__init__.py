"""Gradient flows as ordinary differential equations: on a manifold, and on a network's layers."""

from riemdln.flows._flows import Flow, FlowError, NetworkFlow, gradient_flow, network_flow

__all__ = ["Flow", "FlowError", "NetworkFlow", "gradient_flow", "network_flow"]
