"""The Ray cluster that the tests share: a head without workers, and two nodes."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox.cluster import NODE_CPUS

STORE_BYTES = 100 << 20


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster that this process has entered, as `ray.cluster_utils.Cluster`."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        # Workers are started with the niceness of these tests; a lost node is noticed within seconds.
        "_system_config": {"worker_niceness": 0, "health_check_period_ms": 1000, "health_check_initial_delay_ms": 0},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
