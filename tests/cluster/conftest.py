"""Fixtures: a Ray cluster of several nodes on this machine, and a tiny model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytest.importorskip("scipy", reason="needs the trainers")
pytest.importorskip("torch", reason="needs the trainers")

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("engine", "serving")]

STORE = 100 << 20  # bytes of a node's object store
# A dead node is noticed within seconds.
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all tests of this folder, so that there is one cluster."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("cluster"))


class Nodes:
    """A head node without processors, and two others of one processor each.

    Ray Data does not work on the head of a cluster that has other nodes.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_worker_niceness"] = "0"  # or other tests starve the workers
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # of the workers
        self._cluster = Cluster()
        try:
            self._cluster.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
            self.nodes = [self._add() for _ in range(2)]
            ray.init(self.address, log_to_driver=False, logging_level="WARNING")
        except BaseException:
            self._cluster.shutdown()
            raise

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def kill(self) -> None:
        """Kills a node with all that runs on it."""
        self._cluster.remove_node(self.nodes.pop(0), allow_graceful=False)

    def refill(self) -> None:
        while len(self.nodes) < 2:
            self.nodes.append(self._add())
        self._cluster.wait_for_nodes()

    def shutdown(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket of a local S3 server, for this process and those it starts."""
    pytest.importorskip("s3fs", reason="needs the s3 extra")
    server = pytest.importorskip("moto.server", reason="needs moto and flask")
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="tests")
    yield "s3://tests"
    running.stop()


@pytest.fixture(scope="session")
def nodes(bucket: str) -> Iterator[Nodes]:
    made = Nodes()
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of all tasks. Read only."""
    from joint import make_joint_model

    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")
