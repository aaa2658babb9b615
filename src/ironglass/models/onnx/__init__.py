"""ONNX files as PyTorch networks: each node a module of its own, each attribute honoured or refused."""

from .network import OnnxNetwork, onnx_network

__all__ = ["OnnxNetwork", "onnx_network"]
