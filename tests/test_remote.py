"""Builds from other file systems: a local server that speaks S3, and addresses of plain files."""

import os
from pathlib import Path

import pytest
from pyarrow import fs

from data_processor import load, main
from settings import DataSettings
from storage.build import WORK, build
from storage.remote import Remote, is_remote
from support.errors import UserError, run_command
from tests.test_storage import write_csv, write_nameless

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="module")
def server():
    """Address of an S3 service of this process, with an empty bucket `logs`."""
    moto = pytest.importorskip("moto.server")
    service = moto.ThreadedMotoServer(port=0)
    service.start()
    _, port = service.get_host_and_port()
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ |= KEYS
    options = (
        f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    )
    system, _ = fs.FileSystem.from_uri(
        f"s3://logs?{options}&allow_bucket_creation=true"
    )
    system.create_dir("logs")
    yield system, options
    service.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def uploaded(system, path, key):
    with system.open_output_stream(key) as target:
        target.write(Path(path).read_bytes())


def test_a_build_from_a_bucket_is_that_from_the_files(server, tmp_path):
    system, options = server
    dataset, columns = write_csv(tmp_path)
    here = DataSettings(dataset=dataset, columns=columns)
    uploaded(system, dataset, "logs/shop/events.csv")
    there = DataSettings(
        dataset=f"s3://logs/shop/events.csv?{options}", columns=columns
    )
    folder = tmp_path / "built"
    manifest = build(there, folder, rows_of_part=60)
    local = build(here, tmp_path / "local", rows_of_part=60)
    assert manifest["parts"] == local["parts"]
    assert not (folder / WORK).exists()
    # Once more: nothing is copied or built again.
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert build(there, folder, rows_of_part=60) == manifest
    assert times == {
        path: path.stat().st_mtime_ns for path in folder.rglob("*.*")
    }
    uploaded(system, dataset, "logs/shop/events.csv")  # changed since
    with pytest.raises(UserError, match="holds other data"):
        build(there, folder, rows_of_part=60)


def test_patterns_and_folders_of_a_bucket(server, tmp_path):
    system, options = server
    dataset, columns = write_nameless(tmp_path)
    paths = sorted(tmp_path.glob("log-*.dat"))
    for number, path in enumerate(paths):
        uploaded(system, path, f"logs/films/day={number}/{path.name}")
        uploaded(system, path, f"logs/flat/{path.name}")
    uploaded(system, paths[0], "logs/films/day=0/other.dat")
    local = DataSettings(dataset=dataset, columns=columns)
    wanted = load(local)
    for place in ("films/*/log-*.dat", "flat/*.dat", "flat"):
        address = f"s3://logs/{place}?{options}"
        settings = DataSettings(dataset=address, columns=columns)
        folder = tmp_path / place.replace("*", "x")
        build(settings, folder)
        found = load(DataSettings(dataset=str(folder)))
        assert found.split_hash == wanted.split_hash
        assert found.counts == wanted.counts


def test_a_stopped_copy_goes_on(server, tmp_path, monkeypatch):
    system, options = server
    _, columns = write_nameless(tmp_path)
    for path in tmp_path.glob("log-*.dat"):
        uploaded(system, path, f"logs/stopped/{path.name}")
    address = f"s3://logs/stopped?{options}"
    settings = DataSettings(dataset=address, columns=columns)
    copy, folder = Remote.copy, tmp_path / "built"

    def stops(remote, place, number):
        if number == 2:
            raise KeyboardInterrupt
        copy(remote, place, number)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "copy", stops)
        with pytest.raises(KeyboardInterrupt):
            build(settings, folder)
    copies = sorted((folder / WORK / "files").rglob("*.dat"))
    assert len(copies) == 2
    before = copies[0].stat().st_ino
    monkeypatch.setattr(
        "shutil.rmtree", lambda *_, **__: None
    )  # to look at what was left
    build(settings, folder)
    assert copies[0].stat().st_ino == before


def test_an_address_of_plain_files(tmp_path, capsys):
    dataset, columns = write_csv(tmp_path)
    flags = ["--columns", columns, "--build", str(tmp_path / "built")]
    assert run_command(main, ["--dataset", f"file://{dataset}", *flags]) == 0
    assert "interactions of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://logs/nothing.csv", "no such file"),
        ("file:///nowhere/at/all/*.csv", "no such file"),
        ("nonsense://logs/a.csv", "check address"),
    ],
)
def test_addresses_that_lead_nowhere(server, tmp_path, capsys, address, said):
    if address.startswith("s3"):
        address += f"?{server[1]}"
    flags = ["--dataset", address, "--build", str(tmp_path / "built")]
    assert run_command(main, flags) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert is_remote(address) and not is_remote("a/b.csv")
    with pytest.raises(UserError, match="--build DIR"):
        load(DataSettings(dataset=address))
