"""A Ray cluster of several nodes, all of them on this machine."""

import importlib.util
from typing import Any

import pytest

from arc_seal.sandbox.worker import RaySettings

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: arc-seal[ray]")

NODE_CPUS = 4
"""CPUs that a node claims to have: book-keeping."""


def on_cluster(**settings: Any) -> RaySettings:
    """Two workers in the cluster that the tests have entered, or as the settings say."""
    return RaySettings(**{"address": "auto", "workers": 2, "num_cpus": 0.5, "place_timeout_s": 120.0, **settings})
