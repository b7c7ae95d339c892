"""Readers: formats, validation line by line, the download, and the truth of the synthetic data."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
import zipfile
from pathlib import Path

import pytest

from readers import download, read_interactions
from readers.__main__ import main
from readers.download import Archive, DataUnavailable, data_folder
from readers.movielens import read_ml_1m, read_ml_100k, release_year
from readers.synthetic import CAUSES, content_hash, generate, season_of
from support.errors import UserError, run_command
from tests.conftest import REAL


def test_real_ml_1m_is_read_and_validated_in_under_3_seconds(real_data):
    started = time.perf_counter()
    interactions = read_ml_1m(REAL)
    assert time.perf_counter() - started < 3
    assert len(interactions.ratings) == 1_000_209
    assert (len(interactions.users), len(interactions.movies)) == (6_040, 3_883)
    assert interactions.ratings.iloc[0].tolist() == [1, 1193, 5, 978300760]
    assert interactions.movies.set_index("movie_id").loc[73, "title"] == "Misérables, Les (1995)"


def test_ml_1m_round_trip(ml_1m_folder, tiny):
    interactions = read_ml_1m(ml_1m_folder)
    columns = ["user_id", "movie_id", "rating", "timestamp"]
    assert (interactions.ratings[columns].to_numpy() == tiny.ratings[columns].to_numpy()).all()
    assert interactions.movies["year"].tolist() == tiny.movies["year"].tolist()
    assert interactions.users["age"].tolist() == tiny.users["age"].tolist()


def test_ml_100k_has_the_same_schema(tmp_path):
    (tmp_path / "u.data").write_text("1\t1\t5\t874965758\n2\t2\t3\t888550871\n")
    flags = ["0"] * 19
    flags[1] = flags[5] = "1"  # Action and Comedy; column 0 is 'unknown'
    (tmp_path / "u.item").write_bytes(
        b"1|Caf\xe9 (1995)|01-Jan-1995||http://x|" + "|".join(flags).encode() +
        b"\n2|unknown||||" + "|".join(["1"] + ["0"] * 18).encode() + b"\n")
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|7|F|other|94043\n")
    (tmp_path / "u.occupation").write_text("other\ntechnician\n")
    interactions = read_ml_100k(tmp_path)
    assert interactions.movies["genres"].tolist() == ["Action|Comedy", ""]
    assert interactions.movies["year"].tolist() == [1995, 0]
    assert interactions.users["age"].tolist() == [18, 1]
    assert interactions.users["occupation"].tolist() == [1, 0]


@pytest.mark.parametrize(("title", "year"), [("Toy Story (1995)", 1995), ("2001: A Space Odyssey (1968)", 1968),
                                             ("No year", 0), ("Odd (1995) title", 0)])
def test_release_year(title, year):
    assert release_year(title) == year


BAD_LINES = {  # file, what replaces its third line, what the message must say
    "too few fields": ("ratings", "1::5::3", "ratings.dat:3"),
    "too many fields": ("ratings", "1::5::3::4::5", "ratings.dat:3"),
    "not a number": ("ratings", "1::5::three::978300760", "ratings.dat:3"),
    "a fraction": ("ratings", "1::5::3.5::978300760", "ratings.dat:3"),
    "a number too large": ("ratings", "1::5::3::99999999999999999999999", "ratings.dat:3"),
    "other separator": ("ratings", "1,5,3,978300760", "ratings.dat:3"),
    "tab inside": ("ratings", "1\t5::3::978300760", "ratings.dat:3"),
    "blank line": ("ratings", "", "ratings.dat:3"),
    "rating out of range": ("ratings", "1::5::6::978300760", "ratings.dat:3: rating 6"),
    "zero time": ("ratings", "1::5::3::0", "ratings.dat:3: timestamp 0"),
    "unknown film": ("ratings", "1::9999::3::978300760", "ratings.dat:3: film 9999"),
    "negative film": ("ratings", "1::-4::3::978300760", "ratings.dat:3: film -4"),
    "huge film": ("ratings", "1::999999999999999::3::978300760", "ratings.dat:3: film 999999999999999"),
    "unknown user": ("ratings", "9999::5::3::978300760", "ratings.dat:3: user 9999"),
    "film listed twice": ("movies", "1::Again (1990)::Drama", "movies.dat:3: film 1 is listed twice"),
    "unknown genre": ("movies", "3::X (1990)::Dramma", "movies.dat:3: genre 'Dramma'"),
    "film fields": ("movies", "3::X (1990)", "movies.dat:3"),
    "film in UTF-8": ("movies", "3::CafÃ© (1990)::Drama", "movies.dat:3: not latin-1"),
    "film id": ("movies", "three::X (1990)::Drama", "movies.dat:3: film id 'three'"),
    "gender": ("users", "3::X::25::1::0", "users.dat:3: gender 'X'"),
    "age": ("users", "3::F::26::1::0", "users.dat:3: age 26"),
    "occupation": ("users", "3::F::25::77::0", "users.dat:3: occupation 77"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_line_is_named(ml_1m_folder, case):
    name, line, message = BAD_LINES[case]
    path = ml_1m_folder / f"{name}.dat"
    lines = path.read_text(encoding="latin-1").split("\n")
    lines[2] = line
    path.write_text("\n".join(lines), encoding="latin-1")
    with pytest.raises(UserError) as caught:
        read_ml_1m(ml_1m_folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_duplicate_rating_is_named(ml_1m_folder):
    path = ml_1m_folder / "ratings.dat"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0]]) + "\n")
    with pytest.raises(UserError, match=rf"ratings.dat:{len(lines) + 1}: a second rating"):
        read_ml_1m(ml_1m_folder)


@pytest.mark.parametrize("name", ["ratings", "movies", "users"])
def test_missing_and_empty_files(ml_1m_folder, name):
    (ml_1m_folder / f"{name}.dat").write_bytes(b"")
    with pytest.raises(UserError, match=f"{name}.dat is empty"):
        read_ml_1m(ml_1m_folder)
    (ml_1m_folder / f"{name}.dat").unlink()
    with pytest.raises(UserError, match=f"{name}.dat is missing"):
        read_ml_1m(ml_1m_folder)


@pytest.fixture()
def server(tmp_path):
    """A web server on this machine over tmp_path/site; yields (address, folder)."""
    site = tmp_path / "site"
    site.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(site))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", site
        running.shutdown()


@pytest.fixture()
def archive(server, ml_1m_folder, tmp_path, monkeypatch):
    """The tiny world as ml-1m.zip behind the server; the project root is an empty folder."""
    address, site = server
    with zipfile.ZipFile(site / "ml-1m.zip", "w") as opened:
        for path in ml_1m_folder.iterdir():
            opened.write(path, f"ml-1m/{path.name}")
    digest = hashlib.md5((site / "ml-1m.zip").read_bytes()).hexdigest()
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(download, "ROOT", root)
    monkeypatch.setitem(download.ARCHIVES, "ml-1m", Archive(f"{address}/ml-1m.zip", digest, "ratings.dat"))
    return site / "ml-1m.zip"


def test_download_checks_unpacks_and_is_not_repeated(archive, tmp_path, capsys):
    folder = data_folder("ml-1m")
    assert "no redistribution" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["movies.dat", "ratings.dat", "users.dat"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["ml-1m"]  # no scratch left
    archive.unlink()
    assert data_folder("ml-1m") == folder
    assert capsys.readouterr().err == ""
    assert len(read_interactions("ml-1m").users) == 60


def test_truncated_download_is_refused_and_leaves_nothing(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or altered"):
        data_folder("ml-1m")
    assert main(["ml-1m"]) == 3  # for make run, no data
    assert list((tmp_path / "root").iterdir()) == []


def test_a_file_that_is_no_zip_is_refused(archive, tmp_path, monkeypatch):
    archive.write_bytes(b"not a zip")
    known = download.ARCHIVES["ml-1m"]
    monkeypatch.setitem(download.ARCHIVES, "ml-1m",
                        Archive(known.url, hashlib.md5(b"not a zip").hexdigest(), "ratings.dat"))
    with pytest.raises(UserError, match="not a zip"):
        data_folder("ml-1m")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_full_disk_leaves_nothing(archive, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_fetch", full)
    assert run_command(main, ["ml-1m"]) == 2
    assert list((tmp_path / "root").iterdir()) == []


def test_no_connection_names_three_ways_and_exits_with_3(archive, capsys):
    archive.unlink()
    with pytest.raises(DataUnavailable, match=r"\(1\).*\(2\).*\(3\)"):
        data_folder("ml-1m")
    assert main(["ml-1m"]) == 3


def test_data_dir_without_the_files(tmp_path):
    with pytest.raises(UserError, match="--data_dir"):
        data_folder("ml-1m", str(tmp_path))


def test_synthetic_data_are_frozen():
    assert content_hash(generate()) == "40b0e012a99f94db"


def test_synthetic_causes_are_true():
    """Every stored cause can be checked: who watched what before, and when."""
    interactions = generate(people=100)
    ratings = interactions.ratings
    shares = ratings["cause"].value_counts(normalize=True)
    assert all(abs(shares[cause] - share) < 0.04 for cause, share in CAUSES.items())
    sequel = {}
    for _, rows in ratings.groupby("user_id"):
        assert rows["movie_id"].is_unique and rows["timestamp"].is_monotonic_increasing
        films = rows["movie_id"].tolist()
        for place, row in enumerate(rows.itertuples()):
            if row.cause == "earlier_film":
                assert row.cause_movie_id in films[max(0, place - 3):place]
                assert sequel.setdefault(row.cause_movie_id, row.movie_id) == row.movie_id  # one sequel a film
            else:
                assert row.cause_movie_id == 0
    in_season = ratings[ratings["cause"] == "season"]
    by_season = in_season.groupby(in_season["timestamp"].map(season_of))["movie_id"].nunique()
    assert (by_season <= 30).all()
    ages = interactions.users.set_index("user_id")["age"]
    by_age = ratings[ratings["cause"] == "age_group"]
    assert (by_age.groupby(by_age["user_id"].map(ages))["movie_id"].nunique() <= 25).all()


def test_a_folder_in_place_of_a_file(ml_1m_folder):
    path = Path(ml_1m_folder / "users.dat")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_ml_1m(ml_1m_folder)
