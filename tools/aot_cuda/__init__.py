"""Compiles flaxen's GPU code ahead of time, on a machine without a GPU: `make aot-cuda`."""
