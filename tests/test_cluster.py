"""The page on clusters does what it says: its own code, on clusters that start on this machine."""

import doctest
import os
import re
import secrets
from pathlib import Path

import joblib
import pytest

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
ray = pytest.importorskip("ray")

# A cluster that cannot start, for want of memory or of ports, waits for ever.
pytestmark = pytest.mark.timeout(60)

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "cluster.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SWEEP, ON_CORES, _PAIRS, ON_DASK, ON_RAY, _ = BLOCKS


@pytest.fixture(scope="module")
def page():
    """The names that the page's first block leaves: its sweep, and the costs of it run serially."""
    names = {"__name__": "__main__"}
    exec("".join(example.source for example in doctest.DocTestParser().get_examples(SWEEP)), names)
    return names


def replaced(block, address, local):
    assert block.count(address) == 1
    return block.replace(address, local)


def names_and_processes(page, block):
    """The names after one more block, whose costs are the serial ones, and where it ran."""
    final_cost = page["final_cost"]

    def cost_and_process(*run):
        return final_cost(*run), os.getpid()

    names = page | {"joblib": joblib, "final_cost": cost_and_process}
    exec(block, names)
    costs, processes = zip(*names["costs"], strict=True)
    assert list(costs) == page["costs"]
    return names, set(processes)


def test_joblib(page):
    try:
        _, processes = names_and_processes(page, ON_CORES)
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown()
    assert os.getpid() not in processes or joblib.cpu_count() == 1


def test_dask(page, tmp_path):
    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
    ):
        address = cluster.scheduler_address
        names, processes = names_and_processes(
            page, replaced(ON_DASK, "tcp://scheduler:8786", address)
        )
        names["client"].close()
        assert processes <= {worker.pid for worker in cluster.workers.values()}


def test_ray(page, monkeypatch):
    # Where it finds no token Ray writes one to the home folder; and it reports how it is used.
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    local = 'address="local", num_cpus=2, include_dashboard=False'
    try:
        _, processes = names_and_processes(page, replaced(ON_RAY, 'address="auto"', local))
    finally:
        ray.shutdown()
    assert os.getpid() not in processes
