"""Training in the workers of a Ray cluster on this machine: the same as under torchrun, and it goes
on when a worker is killed."""

import functools
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from bulk import recommend_all, write_all
from engine import RecommendationEngine
from run_folder import newest_run, read_results
from support.checkpoint import read_checkpoint
from support.errors import UserError
from support.ray_cluster import cluster
from support.ray_workers import run_together, spread_over
from tests.conftest import ROOT
from tests.test_scripts import SMALL

pytestmark = pytest.mark.slow
pytest.importorskip("ray")

WORKER = "RayTrainWorker"  # what Ray calls the process of a worker
PATIENCE = 600  # seconds
ALIKE = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder, files, *flags):
    place = [
        "--checkpoint_dir",
        str(folder / "c"),
        "--runs_dir",
        f"{folder}/r",
    ]
    return ["trainer.py", *place, "--data_dir", str(files), *SMALL, *flags]


def start(command, launcher=(sys.executable,)):
    return subprocess.Popen(
        [*launcher, *command],
        cwd=ROOT,
        env=ALIKE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process):
    """(exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def weights_of(folder):
    run = newest_run(folder / "c")
    return read_checkpoint(run / "best")[0]


def workers():
    """Processes of workers that train."""
    found = subprocess.run(
        ["pgrep", "-f", WORKER], capture_output=True, text=True, check=False
    )
    return [int(number) for number in found.stdout.split()]


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, end_of(process)
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_workers_train_as_two_processes_of_torchrun(
    ml_1m_folder, tmp_path
):
    torchrun = (sys.executable, "-m", "torch.distributed.run")
    torchrun += ("--nproc_per_node", "2")
    plain = "--no_transitions"
    alone = command(tmp_path / "a", ml_1m_folder, plain)
    code, _, err = end_of(start(alone, torchrun))
    assert code == 0, err
    ray = ["--ray", "local", "--workers", "2", plain]
    code, out, err = end_of(start(command(tmp_path / "b", ml_1m_folder, *ray)))
    assert code == 0, err
    assert out.count("epoch   3") == 1 and out.count("Best model") == 1
    one, other = (weights_of(tmp_path / name) for name in "ab")
    assert all((one[name] == other[name]).all() for name in one)


def parents(numbers):
    """The processes that started some others."""
    found = subprocess.run(
        ["ps", "-o", "ppid=", "-p", ",".join(map(str, numbers))],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(found.stdout.split())


def test_what_is_killed_is_replaced_and_a_killed_program_resumed(
    ml_1m_folder, tmp_path
):
    """On two Ray nodes of this machine with a worker each: kill -9 of a worker, of a node, and of
    the program. Every epoch is trained, and it learned."""
    from ray.cluster_utils import Cluster

    def reached(epoch):
        run = newest_run(tmp_path / "c")
        log = run and run / "log.txt"
        return log and log.exists() and f"epoch {epoch:3}" in log.read_text()

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = machines.add_node(num_cpus=1)
        ray = ["--ray", machines.address, "--workers", "2"]
        long = ["--max_epochs", "40", "--eval_every", "5", "--patience", "99"]
        flags = [*long, "--no_transitions", *ray]
        process = start(command(tmp_path, ml_1m_folder, *flags))
        wait_for(lambda: reached(5), process)
        assert len(parents(workers())) == 2
        os.kill(workers()[0], signal.SIGKILL)
        wait_for(lambda: reached(15), process)
        before = set(workers())
        machines.remove_node(second, allow_graceful=False)
        machines.add_node(num_cpus=1)
        wait_for(lambda: len(set(workers()) - before) == 2, process)
        wait_for(lambda: reached(25), process)
        process.kill()
        end_of(process)
        resume = ["--resume", "--checkpoint_dir", str(tmp_path / "c")]
        code, out, err = end_of(start(["trainer.py", *resume, *ray]))
    finally:
        machines.shutdown()
    assert code == 0, err
    found = read_results(newest_run(tmp_path / "c") / "best")
    assert found["epochs"] == 40 and "Best model" in out
    ours, popularity = (
        found["ranking"][name]["NDCG@10"]["mean"]
        for name in ("enhanced", "popularity")
    )
    assert ours > 1.2 * popularity


def test_an_error_of_the_user_ends_all_workers(tmp_path):
    """It is not tried again and again."""
    with (
        cluster("local", 2) as ray,
        pytest.raises(UserError, match="all is refused"),
    ):
        run_together(ray, one_refuses, 2, tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port", ":"])
def test_an_address_without_a_cluster_is_refused_at_once(address):
    began = time.monotonic()
    refused = pytest.raises(UserError, match=f"--ray {address}: .*ray start")
    with refused, cluster(address):
        pass
    assert time.monotonic() - began < 30


def dies_once(folder, number):
    """Work whose process is killed when it takes a number for the first time."""
    begun = folder / f"begun-{number}"
    if not begun.exists():
        begun.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"done-{number}").touch()


def refuses(number):
    raise UserError(f"{number} is refused")


def one_refuses():
    """The first of two workers has an error, for which the other one waits."""
    if os.environ["RANK"] == "0":
        raise UserError("all is refused")
    torch.distributed.barrier()


def test_what_a_killed_actor_had_begun_is_done_by_another(tmp_path):
    work = functools.partial(dies_once, tmp_path)
    assert len(list(spread_over(work, range(4), "local"))) == 4
    assert len(list(tmp_path.glob("done-*"))) == 4
    with pytest.raises(UserError, match="3 is refused"):
        list(spread_over(refuses, [3], "local"))


def test_lists_of_a_cluster_are_those_of_one_process(service_files, tmp_path):
    data, folder = str(service_files / "data"), tmp_path / "lists"
    engine = RecommendationEngine(service_files / "main/best", data_dir=data)
    spread = functools.partial(spread_over, address="local")
    steps = write_all(engine, folder, spread=spread, users_of_a_file=17)
    assert list(steps) == [(done, 4) for done in range(5)]
    files = sorted(folder.glob("*.parquet"))
    found = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    whole = recommend_all(engine)
    keys = ["user_id", "item_id", "rank"]
    pd.testing.assert_frame_equal(found[keys], whole[keys])
