"""The service: the engine's own answers, hostile requests, several at once, a newer checkpoint, a
bounded stop.
"""

import asyncio
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import trainer
from answers import to_json
from engine import RecommendationEngine
from queries import Query
from serving import batching
from serving.__main__ import main as serve
from serving.app import STATIC, Config, create_app, version_of
from serving.batching import WAITING, Batcher, Busy
from serving.engines import Engines
from serving.guards import MOST_BYTES
from support.errors import UserError, run_command
from tests.conftest import ROOT, SERVED, start_service


@pytest.fixture(scope="module")
def folder(service_files):
    return service_files


def config(folder, **changes):
    return Config(
        **{
            "model_path": str(folder / "main" / "best"),
            "vanilla_path": str(folder / "vanilla" / "best"),
            "data_dir": str(folder / "data"),
            "look_every": 0.05,
            "copies": str(folder / "copies"),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def client(folder):
    with TestClient(
        create_app(config(folder)), base_url="http://localhost"
    ) as client:
        yield client


def test_the_time_of_the_request_is_heeded(folder):
    """By a model that knows it; those beside it answer the same at any time."""
    place, times = (
        folder / "timed" / "best",
        [978_300_000, 978_300_000 + 200 * 86_400],
    )
    engine, found = (
        RecommendationEngine(place, data_dir=str(folder / "data")),
        {},
    )
    with TestClient(
        create_app(config(folder, model_path=str(place))),
        base_url="http://localhost",
    ) as client:
        assert client.get("/health").json()["knows_request_time"]
        for name in ("main", "vanilla", "popularity"):
            answers = [
                client.post(
                    "/recommend", json={"user_id": 12, "at": at, "model": name}
                ).json()
                for at in times
            ]
            found[name] = [answer["recommendations"] for answer in answers]
        why = [
            client.post(
                "/explain", json={"user_id": 12, "at": at, "item_ids": [40]}
            ).json()
            for at in times
        ]
        notes = [
            client.post("/recommend", json=person).json()["note"]
            for person in (
                {"user_id": 12},
                {"user_id": 12, "at": times[0]},
                {"history": [3]},
            )
        ]
        assert all(
            note.startswith(said)
            for note, said in zip(
                notes,
                (
                    "request time assumed: ",
                    "request time: 2000-12-31",
                    "request time: unknown",
                ),
                strict=True,
            )
        )
    assert found["main"] == [
        to_json(engine.get_recommendations(12, None, at=at)) for at in times
    ]
    assert found["main"][0] != found["main"][1] and why[0] != why[1]
    assert (
        found["vanilla"][0] == found["vanilla"][1]
        and found["popularity"][0] == found["popularity"][1]
    )


def test_health_and_metrics(client):
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["models"] == [
        "main",
        "popularity",
        "vanilla",
    ]
    assert health["users"] == 60
    assert (
        health["serves_empty_histories"] and not health["knows_request_time"]
    )
    text = client.get("/metrics").text
    assert (
        'requests_total{path="/health",status="200"}' in text
        and 'requests_begun_total{path="/health"}' in text
    )
    assert "batch_size_bucket" in text


HOSTILE = {
    "unknown field": (
        {"user_id": 12, "path": "/etc/passwd"},
        422,
        "path: Extra inputs",
    ),
    "unknown user": ({"user_id": 999}, 400, "user 999 is not in"),
    "unknown film": ({"history": [3, 999]}, 400, "film 999"),
    "nobody": ({}, 400, "nobody to recommend for"),
    "fraction": ({"user_id": 12.5}, 422, "user_id"),
    "huge number": ({"user_id": 10**40}, 422, "user_id"),
    "k of 0": ({"user_id": 12, "k": 0}, 422, "k:"),
    "k of 1000": ({"user_id": 12, "k": 1000}, 422, "k:"),
    "long history": ({"history": [3] * 501}, 422, "history"),
    "genre": ({"user_id": 12, "genres": ["Dramma"]}, 422, "genres"),
    "gender": ({"user_id": 12, "gender": "X"}, 422, "gender"),
    "model": ({"user_id": 12, "model": "../../x"}, 422, "model"),
    "time": ({"user_id": 12, "at": 10**9}, 400, "request time unknown"),
    "list": ([1, 2], 422, "body"),
    "null": (None, 422, "body"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_requests(client, case):
    body, code, message = HOSTILE[case]
    answer = client.post("/recommend", json=body)
    assert (
        answer.status_code == code
        and message in answer.json()["error"]
        and "\n" not in answer.json()["error"]
    )
    assert "--" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", 422),
        (b"{", 422),
        (b'{"user_id": NaN}', 422),
        (b'{"k": Infinity, "user_id": 1}', 422),
        (b"[" * 30_000, 400),
        (b'{"a":' * 10_000, 400),
        (b'{"user_id": ' + b"9" * 5000 + b"}", 400),
        (b"\xff\xfe", 422),
        (b'{"user_id": 12, "model": "\\ud800"}', 422),
        (b'{"\\ud800": 1}', 422),
        (b'{"' + b"a" * 60_000 + b'": 1}', 422),
        (b" " * (MOST_BYTES + 1), 413),
        (b'{"user_id": 1, "user_id": 12}', 200),
    ],
)
def test_raw_bodies(client, raw, code):
    answer = client.post(
        "/recommend", content=raw, headers={"content-type": "application/json"}
    )
    assert (
        answer.status_code == code
        and ("error" in answer.json()) == (code != 200)
        and len(answer.content) < 3000
    )


def test_a_refusal_is_one_line(client):
    for body in (
        b'{"a\\nb": 1}',
        b'{"history": [' + b"9999," * 50 + b"9999]}",
    ):
        error = client.post(
            "/recommend",
            content=body,
            headers={"content-type": "application/json"},
        ).json()["error"]
        assert "\n" not in error and len(error) <= 500


def test_a_body_that_does_not_say_its_length(client):
    answer = client.post(
        "/recommend",
        content=(b" " * 1000 for _ in range(100)),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/recommend", 405),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/static/..%2f..%2fREADME.md", 404),
        ("GET", "/items", 422),
        ("GET", "/items?query=" + "x" * 101, 422),
        ("GET", "/docs", 404),
    ],
)
def test_other_paths(client, method, path, code):
    answer = client.request(method, path)
    assert answer.status_code == code and "error" in answer.json()


def test_a_form_of_another_site_is_no_request(client):
    """What a browser sends across sites without asking first: no JSON type, or another
    host name."""
    body = json.dumps({"user_id": 12})
    assert (
        client.post(
            "/recommend", content=body, headers={"content-type": "text/plain"}
        ).status_code
        == 422
    )
    assert (
        client.get("/health", headers={"host": "evil.example"}).status_code
        == 400
    )


def test_an_explanation_is_among_the_items_that_may_be_recommended(client):
    wish = {"user_id": 1, "k": 2, "filter_seen": False}
    found = client.post("/recommend", json=wish).json()["recommendations"]
    ids = [item["id"] for item in found]
    why = {"user_id": 1, "item_ids": ids[:1], "filter_seen": False}
    scores = []
    for choice in ({}, {"only": ids}, {"without": ids[1:]}):
        answer = client.post("/explain", json={**why, **choice})
        scores.append(answer.json()["explanations"][0]["log_probability"])
    # Among fewer items the same one is more probable.
    assert scores[1] > scores[0] and scores[2] > scores[0]
    assert client.post("/explain", json={**why, "only": [10**9]}).status_code == 400


def test_a_newer_checkpoint_has_a_schema_of_its_own(folder):
    """Data of the same split are reused, but not the words and rules of the older model."""
    older = Engines(config(folder))
    assert Engines(config(folder), older).main.data is older.main.data
    main = older.main
    schema = dataclasses.replace(main.schema, noun="article", repeats=True)
    main.catalogue = dataclasses.replace(main.catalogue, schema=schema)
    newer = Engines(config(folder), older)
    assert newer.main.schema.noun == "film" and not newer.main.schema.repeats


def test_page_and_headers(client):
    page = client.get("/")
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-cache"
    files = re.findall(r'"(static/[^"]+)"', page.text)
    for path in STATIC.rglob("*.*"):
        if path.suffix in (".js", ".css"):
            name = path.relative_to(STATIC).as_posix()
            (address,) = [one for one in files if one.endswith("/" + name)]
            answer = client.get(f"/{address}")
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]


def test_files_of_another_version_have_another_address(tmp_path):
    """Browsers keep the files."""
    (tmp_path / "page.js").write_text("a = 1")
    before = version_of(tmp_path)
    assert version_of(tmp_path) == before
    (tmp_path / "page.js").write_text("a = 2")
    assert version_of(tmp_path) != before


# Several at once


def test_those_who_wait_are_ranked_together_and_get_their_own_answer(
    engine, monkeypatch
):
    """Also beside one whose request is wrong."""
    sizes = []
    monkeypatch.setattr(batching.BATCH_SIZE, "observe", sizes.append)

    async def run():
        batcher = Batcher()
        batcher.start()
        queries = [Query(engine.history(user), k=5) for user in range(1, 41)]
        queries[7] = Query(engine.history(8), where=["shoes=41"])
        answers = await asyncio.gather(
            *(batcher.rank(engine, query) for query in queries),
            return_exceptions=True,
        )
        await batcher.stop()
        return queries, answers

    queries, answers = asyncio.run(run())
    assert isinstance(answers.pop(7), UserError) and queries.pop(7)
    assert max(sizes) == 32 and sum(sizes) == 40
    for query, answer in zip(queries, answers, strict=True):
        (alone,) = engine.answer([query])
        assert [row.id for row in answer] == [row.id for row in alone]
        np.testing.assert_allclose(
            [row.score for row in answer],
            [row.score for row in alone],
            atol=1e-3,
        )


def test_explanations_stand_in_nobodys_way_and_may_not_pile_up(engine):
    """A ranking is answered while an explanation goes on; beyond the bound, Busy."""
    go_on = threading.Event()

    async def run():
        batcher = Batcher()
        batcher.start()
        slow = [
            asyncio.create_task(batcher.compute("explain", go_on.wait))
            for _ in range(WAITING["explain"])
        ]
        await asyncio.sleep(0)
        answer = await asyncio.wait_for(
            batcher.rank(engine, Query(engine.history(3))), 10
        )
        with pytest.raises(Busy):
            await batcher.compute("explain", go_on.wait)
        go_on.set()
        assert await asyncio.gather(*slow) == [True] * len(slow)
        await batcher.stop()
        return answer

    assert len(asyncio.run(run())) == 10


def test_a_newer_checkpoint_is_served_without_a_dropped_request(
    folder, tmp_path, capsys
):
    """And one that is damaged is not."""
    place = tmp_path / "served"
    shutil.copytree(folder / "main" / "best", place)
    assert (
        run_command(
            trainer.main,
            [
                *SERVED,
                "--seed",
                "7",
                "--data_dir",
                str(folder / "data"),
                "--checkpoint_dir",
                str(tmp_path / "new"),
                "--runs_dir",
                str(tmp_path),
            ],
        )
        == 0
    )
    first, second = (
        to_json(
            RecommendationEngine(
                path, data_dir=str(folder / "data")
            ).get_recommendations(12)
        )
        for path in (place, tmp_path / "new" / "best")
    )
    assert first != second
    with TestClient(
        create_app(config(folder, model_path=str(place))),
        base_url="http://localhost",
    ) as client:

        def ask():
            answer = client.post("/recommend", json={"user_id": 12})
            assert answer.status_code == 200
            return answer.json()["recommendations"]

        assert ask() == first
        place.rename(tmp_path / "old")
        newer = (tmp_path / "new" / "best").resolve()
        shutil.move(newer, place)
        until = time.monotonic() + 30
        while (answer := ask()) == first and time.monotonic() < until:
            pass
        assert answer == second
        broken = tmp_path / "broken"
        shutil.copytree(place, broken)
        (broken / "checkpoint.json").write_bytes(b"nothing")
        place.rename(tmp_path / "older")
        broken.rename(place)
        printed = ""
        while "is not served" not in printed and time.monotonic() < until:
            time.sleep(0.05)
            printed += capsys.readouterr().out
        assert "is corrupted" in printed and ask() == second


# The process


def known(body):
    """A body as the schema allows it, with ids that there are for those that there are not, with
    what the served model can be told, and not in full for several films: the schema cannot say
    these."""
    dropped = {"at", "columns", "where", "history_columns", "until"}
    if len(body.get("item_ids", "")) > 1:
        dropped.add("k")
    if body.get("model", "main") != "main":
        dropped |= {"prefer_expected", "rank_by"}
    body = {
        name: int(value) if isinstance(value, float) else value
        for name, value in body.items()
        if name not in dropped
    }
    if body.get("user_id") is not None:
        body["user_id"] = 12
    elif body.get("history") is None:
        body["history"] = [3, 9]
    return body | {
        name: [1 + hash(str(film)) % 80 for film in body[name]]
        for name in ("history", "item_ids", "only", "without")
        if body.get(name)
    }


def hammered(operation, mode, url):
    """The codes of what an operation answers to what schemathesis thinks of."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import (
        negative_data_rejection,
        positive_data_acceptance,
    )

    codes = []

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(schemathesis.GenerationMode[mode]))
    def hammer(case):
        bodies = (
            [case.body, known(case.body)]
            if mode == "POSITIVE" and operation.body
            else [case.body]
        )
        if mode == "POSITIVE" and "item_id" in (case.query or {}):
            case.query["item_id"] = "7"
        for case.body in bodies:
            answer = case.call(base_url=url)
            # a refusal that it does not know
            too_long = (
                [negative_data_rejection] if answer.status_code == 413 else []
            )
            case.validate_response(
                answer, excluded_checks=[positive_data_acceptance, *too_long]
            )
            codes.append(answer.status_code)

    hammer()
    return codes


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_fuzzed_from_its_own_openapi(live_service, mode):
    """schemathesis: what the schema allows, and what it forbids, is answered as the schema says;
    never a 5xx. What it allows is asked as it comes, and of people and films that there are."""
    import schemathesis

    operations = [
        result.ok()
        for result in schemathesis.openapi.from_url(
            f"{live_service}/openapi.json"
        ).get_all_operations()
    ]
    for operation in operations:
        # else there is nothing to get wrong
        if mode == "POSITIVE" or operation.body or operation.query:
            codes = hammered(operation, mode, live_service)
            counts = {code: codes.count(code) for code in set(codes)}
            said = (
                counts.get(200, 0) > len(codes) / 3
                if mode == "POSITIVE"
                else 422 in counts
            )
            assert max(counts) < 500 and said, (operation.path, counts)


MANY = 6  # at once: some still wait when all have begun


@pytest.mark.slow
def test_stops_gracefully(service_files):
    """What has been begun is answered, then the process and its workers end."""
    process, url = start_service(service_files, "--workers", "2")

    def figure(name):
        text = httpx.get(f"{url}/metrics", timeout=30).text
        return sum(
            float(value)
            for value in re.findall(
                rf'^{name}{{path="/explain".*}} (.*)$', text, re.MULTILINE
            )
        )

    try:
        with ThreadPoolExecutor(MANY) as pool:
            asked = [
                pool.submit(
                    httpx.post,
                    f"{url}/explain",
                    timeout=120,
                    json={
                        "user_id": user,
                        "item_ids": [7],
                        "k": 70,
                        "filter_seen": False,
                    },
                )
                for user in range(1, MANY + 1)
            ]
            until = time.monotonic() + 60
            while (
                figure("requests_begun_total") < MANY
                and time.monotonic() < until
            ):
                time.sleep(0.01)
            left = MANY - figure("requests_total")
            process.send_signal(signal.SIGTERM)
            answered = [answer.result().status_code for answer in asked]
        assert left > 0 and answered == [200] * MANY
        assert process.wait(timeout=300) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/health", timeout=5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model_path", "nowhere"],
            "nowhere/checkpoint.json does not exist",
        ),
        (["--port", "0"], "--port"),
        (["--host", "nowhere.example"], "--host"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_flags(service_files, capsys, flags, message):
    given = [
        "--model_path",
        str(service_files / "main" / "best"),
        "--data_dir",
        str(service_files / "data"),
        *flags,
    ]
    assert run_command(serve, given) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(),
    reason="looks for mapped files in /proc",
)
def test_weights_of_the_service_are_one_copy(folder, client):
    """So that workers share them; and what they share stays unwritten after a request."""
    digest = client.app.state.service.engines.main.info["weights"]
    weights = (folder / "copies" / f"{digest}.safetensors").resolve()

    def inside(model):
        """Share of the bytes of a model's parameters that lie in the mapped file."""
        ranges = [
            tuple(int(end, 16) for end in line.split()[0].split("-"))
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(weights))
        ]
        sizes = [
            (
                one.numel(),
                any(low <= one.data_ptr() < high for low, high in ranges),
            )
            for one in model.parameters()
        ]
        return sum(size for size, found in sizes if found) / sum(
            size for size, _ in sizes
        )

    assert client.post("/recommend", json={"user_id": 1}).status_code == 200
    assert inside(client.app.state.service.engines.main.scorer) == 1
    alone = RecommendationEngine(
        folder / "main" / "best", data_dir=str(folder / "data")
    )
    assert inside(alone.scorer) == 0


def busy():
    """Whether two processes that do nothing but count get less than nine tenths of two cores for
    a second.
    """
    count = "import time; end = time.perf_counter() + 1\nwhile time.perf_counter() < end: pass\n"
    counting = [
        subprocess.Popen(
            [sys.executable, "-c", f"{count}print(time.process_time())"],
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    return sum(float(process.communicate()[0]) for process in counting) < 1.8


def test_the_documented_paths_exist(client):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = client.get("/openapi.json").json()["paths"]
    named = re.findall(r"`(GET|POST) (/\w+)", text)
    assert {path for _, path in named} == set(paths) and all(
        method.lower() in paths[path] for method, path in named
    )
    for body in re.findall(r"localhost:8000/recommend .* -d '(.*)'", text):
        answer = client.post("/recommend", json=json.loads(body))
        assert answer.status_code != 422, answer.text


def test_recommendations_are_the_engines(client, engine):
    bodies = [
        ({"user_id": 12}, {"user_id": 12}),
        (
            {"user_id": 12, "k": 3, "where": ["genres=Drama"]},
            {"user_id": 12, "top_k": 3, "where": ["genres=Drama"]},
        ),
        (
            {"history": [3, 9], "columns": {"gender": "F", "age": 30}},
            {
                "item_sequence": [3, 9],
                "user_columns": {"gender": "F", "age": 30},
            },
        ),
        ({"history": []}, {"item_sequence": []}),
        (
            {
                "user_id": 12,
                "history": [5],
                "filter_seen": False,
                "where": ["year>=1980"],
            },
            {
                "user_id": 12,
                "item_sequence": [5],
                "filter_seen": False,
                "where": ["year>=1980"],
            },
        ),
    ]
    for body, arguments in bodies:
        answer = client.post("/recommend", json=body)
        assert answer.status_code == 200, answer.text
        expected = to_json(recommended(engine, **arguments))
        assert answer.json() == {"recommendations": expected, "note": ""}


def recommended(
    engine,
    user_id=None,
    item_sequence=None,
    top_k=10,
    user_columns=None,
    **options,
):
    history = engine.history(user_id, item_sequence, None, user_columns)
    return engine.answer([Query(history, top_k, **options)])[0]


def test_explanations_and_profiles_are_the_engines(client, engine):
    history = engine.history(12)
    for items, k in (([40], 5), ([40, 41], None)):
        body = {"user_id": 12, "item_ids": items, **({"k": k} if k else {})}
        answer = client.post("/explain", json=body).json()
        reasons = engine.explain(
            Query(history, k or 10), items, in_full=bool(k)
        )
        assert answer == {"explanations": to_json(reasons)}
    many = client.post(
        "/explain", json={"user_id": 12, "item_ids": [40, 41], "k": 5}
    )
    assert (
        many.status_code == 422
        and "one item at a time" in many.json()["error"]
    )
    assert client.post("/profile", json={"user_id": 12}).json() == to_json(
        engine.get_user_profile(12)
    )


def test_models_side_by_side(client, folder, tiny):
    """Popularity against pandas; vanilla against its own engine, without the items that it does
    not know.
    """
    train = tiny.interactions.sort_values(["user", "time"], kind="stable")
    train = train[train.groupby("user").cumcount(ascending=False) >= 2]
    body = {"history": [], "model": "popularity", "k": 5}
    rows = client.post("/recommend", json=body).json()["recommendations"]
    assert [row["score"] for row in rows] == train["item"].value_counts().iloc[
        :5
    ].tolist()
    vanilla = RecommendationEngine(
        folder / "vanilla" / "best", data_dir=str(folder / "data")
    )
    unknown = np.setdiff1d(tiny.items["id"], vanilla.catalogue.items.ids)
    known = vanilla.catalogue.items.ids[:4].tolist()
    assert len(unknown)
    answer = client.post(
        "/recommend",
        json={"history": [*known, int(unknown[0])], "model": "vanilla"},
    ).json()
    assert answer["recommendations"] == to_json(
        vanilla.get_recommendations(None, known)
    )
    assert answer["note"].startswith("without 1 ")


def test_items_like_another_and_lists_that_are_limited(client, engine):
    answer = client.get("/similar", params={"item_id": 4, "k": 3}).json()
    assert answer["recommendations"] == to_json(engine.similar_items(4, 3))
    unknown = client.get("/similar", params={"item_id": 10000})
    assert unknown.status_code == 400 and "10000" in unknown.json()["error"]
    plain = engine.get_recommendations(12, k=6)
    ids = [item.id for item in plain]
    body = {"user_id": 12, "only": ids[1:4], "without": ids[2:3]}
    found = client.post("/recommend", json=body).json()["recommendations"]
    assert [item["id"] for item in found] == [ids[1], ids[3]]


def test_a_misspelt_name_is_found(client):
    def found(query):
        answer = client.get("/items", params={"query": query}).json()["items"]
        return [item["id"] for item in answer]

    assert found("sythetic flim 004")[0] == 4
    assert found("flm 04")[0] in found("film 04")
    assert found("qqqqqq") == [] and found("xyz") == []


def test_what_a_user_chose_next(client, engine):
    body = {"user_id": 12, "until": "test", "prefer_expected": "mean"}
    answer = client.post("/recommend", json={**body, "rank_by": "liked"})
    chosen = answer.json()["chosen"]
    assert chosen["id"] == engine.held_out(12, "test")
    assert 1 <= chosen["place_by_next"] <= 80
    for model in ("vanilla", "popularity"):
        other = client.post(
            "/recommend", json={"user_id": 12, "until": "test", "model": model}
        ).json()
        assert other["chosen"]["id"] == chosen["id"]
    whole = client.post("/recommend", json={"user_id": 12}).json()
    assert "chosen" not in whole


def test_search(client):
    items = client.get(
        "/items", params={"query": "FILM synthetic 004"}
    ).json()["items"]
    assert [item["id"] for item in items] == [4]
    assert (
        len(
            client.get("/items", params={"query": "synthetic"}).json()["items"]
        )
        == 20
    )
