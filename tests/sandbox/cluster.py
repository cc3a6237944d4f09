"""A Ray cluster of several nodes, all of them on this machine."""

import importlib.util

import pytest

from arc_seal.sandbox.ray import Placement

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: arc-seal[ray]")

NODE_CPUS = 4
"""CPUs that a node claims to have: book-keeping."""


def placement(*, workers: int = 2, num_cpus: float = 0.5, timeout_s: float = 120.0) -> Placement:
    """Places in the cluster that the tests have entered."""
    return Placement(address="auto", workers=workers, num_cpus=num_cpus, num_gpus=0, timeout_s=timeout_s)
