"""The service among clients that are slow, many, or gone, and checkpoints that are spoilt."""

import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time

import pytest
import uvicorn
from starlette.testclient import TestClient

from serving import connections
from serving.app import create_app
from serving.engines import Config
from support.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import start_service
from trained_items import FILE as ITEMS
from trained_users import FILE


async def echo(scope, receive, send):
    """Answers with the body of a request."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port():
    """A server whose clients have half a second, five at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "ASKING", 0.5)
        patch.setattr(connections, "MOST", 5)
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            echo,
            http=connections.Connection,
            log_level="critical",
            lifespan="off",
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=server.run, args=([listening],), daemon=True
        )
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=10)


def answer_to(port, *parts, pause=0.0):
    """What comes back until the server closes, and after how many seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        answer = b""
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        while more := client.recv(65536):
            answer += more
    return answer, time.monotonic() - began


HALF = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf"


@pytest.mark.parametrize(
    "parts",
    [(), (b"POST / HT",), (HALF,)],
    ids=["nothing", "half a head", "half a body"],
)
def test_who_does_not_ask_is_sent_away(port, parts):
    answer, seconds = answer_to(port, *parts)
    assert b" 408 " in answer.splitlines()[0]
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
    assert seconds < 3


def test_half_a_request_behind_a_whole_one_has_a_deadline_too(port):
    whole = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
    answer, seconds = answer_to(port, whole + HALF)
    assert answer.startswith(b"HTTP/1.1 200") and b" 408 " in answer
    assert seconds < 3


def test_bytes_that_trickle_in_move_no_deadline(port):
    slow = [bytes([sign]) for sign in b"POST / HTTP/1.1\r\nhost: x"]
    with (
        pytest.raises(OSError),
        socket.create_connection(("127.0.0.1", port), 10) as client,
    ):
        for part in slow:
            client.sendall(part)
            time.sleep(0.1)
        assert b" 408 " in client.recv(65536)
        raise ConnectionError


def test_many_connections_of_one_client(port):
    """Those beyond the bound are refused; when some have gone, others may come."""
    held = [
        socket.create_connection(("127.0.0.1", port), timeout=10)
        for _ in range(5)
    ]
    time.sleep(0.1)
    answer, _ = answer_to(port)
    assert b" 503 " in answer.splitlines()[0]
    for client in held:
        client.close()
    time.sleep(0.2)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for body in ("one", "two"):  # on one connection
        client.request("POST", "/", body)
        assert client.getresponse().read() == body.encode()
    client.close()


def test_an_upgrade_that_is_not_offered_is_an_ordinary_request(port):
    """As curl --http2 and Java's client send it: the body is not lost."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA",
    }
    client.request("POST", "/", '{"user_id": 1}', headers)
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"user_id": 1}')
    client.close()


@pytest.fixture
def served(service_files, tmp_path):
    """(folder of a model, client of a service that looks there often)."""
    place = shutil.copytree(
        (service_files / "main" / "best").resolve(), tmp_path / "model"
    )
    config = Config(
        str(place),
        "",
        str(service_files / "data"),
        look_every=0.05,
        copies=str(tmp_path / "copies"),
    )
    with TestClient(create_app(config), base_url="http://localhost") as client:
        yield place, client


def ask(client):
    answer = client.post("/recommend", json={"user_id": 12})
    assert answer.status_code == 200
    return answer.json()["recommendations"]


def test_weights_cut_in_place_change_nothing(served):
    """They would kill every worker that has the file itself in memory."""
    place, client = served
    before = ask(client)
    os.truncate(place / "model.safetensors", 100)
    time.sleep(0.3)
    assert ask(client) == before


def test_a_model_that_recommends_no_numbers_is_not_served(served):
    place, client = served
    before = ask(client)
    tensors, info = read_checkpoint(place)
    good = {name: tensor.clone() for name, tensor in tensors.items()}
    tables = [name for name in tensors if tensors[name].ndim == 2]
    name = max(tables, key=lambda name: tensors[name].numel())
    tensors[name][:] = float("nan")

    def add(new):
        for name in (ITEMS, FILE):
            shutil.copyfile(place / name, new / name)

    write_checkpoint(place, tensors, info, add)
    time.sleep(0.3)
    assert ask(client) == before
    good[name] *= 0.5
    write_checkpoint(place, good, info, add)
    deadline = time.monotonic() + 20
    while ask(client) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="kills as Unix does"
)
def test_workers_end_with_their_parent(service_files):
    process, url = start_service(service_files, "--workers", "2")
    port = int(url.rpartition(":")[2])
    process.kill()
    process.wait(timeout=10)
    deadline = time.monotonic() + 40
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
