"""Fixtures: a Ray cluster of several nodes on this machine, and a tiny model."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uniaudio_engine import cluster

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytest.importorskip("scipy", reason="needs the trainers")
pytest.importorskip("torch", reason="needs the trainers")

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("engine", "serving")]

STORE = 100 << 20  # bytes of a node's object store
START_SECONDS = 120.0  # of a node, on a busy machine
LONGEST = 300  # seconds of a test, or of its set-up or tear-down
HARD = 60  # more seconds until the process ends, for a wait in C that no signal interrupts
hung: list[str] = []


@contextlib.contextmanager
def bounded(item: pytest.Item, what: str) -> Iterator[None]:
    """Fails what takes too long, and after that all other tests that use the cluster."""

    def give_up(*_: object) -> None:
        hung.append(item.nodeid)
        pytest.fail(f"{what} took more than {LONGEST} s", pytrace=True)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST)
    faulthandler.dump_traceback_later(
        LONGEST + HARD, exit=True
    )  # Ray's processes end with this one
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    if hung:
        pytest.fail(f"not run: {hung[0]} hung", pytrace=False)
    with bounded(item, "its set-up"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with bounded(item, "the test"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with bounded(item, "its tear-down"):
        return (yield)


class Nodes:
    """A head node without processors, and two others of one processor each."""

    def __init__(self, environment: dict[str, str]) -> None:
        """``environment``: variables of the nodes and their workers."""
        from ray.cluster_utils import Cluster

        self._environment = environment | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # or other tests starve the workers
            # Serve ends a proxy that is not ready within seconds, as on a busy machine.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(START_SECONDS),
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": str(START_SECONDS),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        self._cluster = Cluster()
        try:
            self._add(num_cpus=0, include_dashboard=False)
            self.nodes = [self._add(num_cpus=1) for _ in range(2)]
            self._cluster.wait_for_nodes(START_SECONDS)
            with self._variables():
                ray.init(self.address, log_to_driver=False, logging_level="WARNING")
        except BaseException:
            self.shutdown()
            raise

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @contextlib.contextmanager
    def _variables(self) -> Iterator[None]:
        """Processes that are started here inherit them; tests of other folders do not."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            yield

    def _add(self, **given: Any) -> Any:
        """Ray gives a node half a minute to start: not enough on a busy machine."""
        for last in (False, False, True):
            try:
                with self._variables():
                    return self._cluster.add_node(wait=False, object_store_memory=STORE, **given)
            except Exception as e:
                if last or "timed out" not in str(e):
                    raise

    def kill(self) -> None:
        """Kills a node with all that runs on it."""
        self._cluster.remove_node(self.nodes.pop(0), allow_graceful=False)

    def busy(self) -> list[int]:
        """The worker processes that do an item now; Linux only."""
        found = []
        for node in self.nodes:
            for raylet in node.all_processes["raylet"]:
                for listed in Path(f"/proc/{raylet.process.pid}/task").glob("*/children"):
                    found += listed.read_text().split()
        titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in found}
        busy = f"ray::{cluster.TASK}".encode()
        return [int(pid) for pid, t in titles.items() if t.read_bytes().startswith(busy)]

    def refill(self) -> None:
        while len(self.nodes) < 2:
            self.nodes.append(self._add(num_cpus=1))
        self._cluster.wait_for_nodes(START_SECONDS)

    def shutdown(self) -> None:
        try:
            ray.shutdown()
        finally:
            self._cluster.shutdown()


@pytest.fixture(scope="session")
def store() -> Iterator[dict[str, str]]:
    """A local S3 server with an empty bucket ``tests``: the variables of its clients."""
    pytest.importorskip("s3fs", reason="needs the s3 extra")
    server = pytest.importorskip("moto.server", reason="needs moto and flask")
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="tests")
    yield variables
    running.stop()


@pytest.fixture
def bucket(store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the bucket, which this process and those that it starts can use."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return "s3://tests"


@pytest.fixture(scope="session")
def nodes(store: dict[str, str]) -> Iterator[Nodes]:
    made = Nodes(store)
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of all tasks. Read only."""
    from joint import make_joint_model

    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")
