"""Readers: formats, validation line by line, the download, and the truth of the synthetic data."""

import hashlib
import http.server
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from readers import download, read
from readers.download import data_folder
from support.errors import UserError, run_command
from tests.conftest import REAL
from tests.synthetic import CAUSES, FOLDER, generate, season_of, shipped


def test_release_years(ml_1m_folder):
    titles = {
        "Toy Story (1995)": 1995,
        "2001: A Space Odyssey (1968)": 1968,
        "No year": np.nan,
        "Odd (1995) title": np.nan,
    }
    path = ml_1m_folder / "movies.dat"
    lines = path.read_text(encoding="latin-1").splitlines()
    for number, title in enumerate(titles):
        lines[number] = f"{number + 1}::{title}::Drama"
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    found = read("ml-1m", str(ml_1m_folder)).items.set_index("id")["year"]
    np.testing.assert_array_equal(
        found.loc[[1, 2, 3, 4]], list(titles.values())
    )


BAD_LINES = {  # file, what replaces its third line, what the message must say
    "too few fields": ("ratings", "1::5::3", "ratings.dat:3"),
    "too many fields": ("ratings", "1::5::3::4::5", "ratings.dat:3"),
    "not a number": ("ratings", "1::5::three::978300760", "ratings.dat:3"),
    "a fraction": ("ratings", "1::5::3.5::978300760", "ratings.dat:3"),
    "a number too large": (
        "ratings",
        "1::5::3::99999999999999999999999",
        "ratings.dat:3",
    ),
    "other separator": ("ratings", "1,5,3,978300760", "ratings.dat:3"),
    "tab inside": ("ratings", "1\t5::3::978300760", "ratings.dat:3"),
    "blank line": ("ratings", "", "ratings.dat:3"),
    "rating out of range": (
        "ratings",
        "1::5::6::978300760",
        "ratings.dat:3: rating '6'",
    ),
    "film listed twice": (
        "movies",
        "1::Again (1990)::Drama",
        "movies.dat:3: 1 is listed twice",
    ),
    "unknown genre": (
        "movies",
        "3::X (1990)::Dramma",
        "movies.dat:3: genres 'Dramma'",
    ),
    "film fields": ("movies", "3::X (1990)", "movies.dat:3"),
    "film id": (
        "movies",
        "three::X (1990)::Drama",
        "movies.dat:3: In CSV column #0",
    ),
    "gender": ("users", "3::X::25::1::0", "users.dat:3: gender 'X'"),
    "age": ("users", "3::F::26::1::0", "users.dat:3: age '26'"),
    "occupation": ("users", "3::F::25::77::0", "users.dat:3: occupation '77'"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_line_is_named(ml_1m_folder, case):
    name, line, message = BAD_LINES[case]
    path = ml_1m_folder / f"{name}.dat"
    lines = path.read_text(encoding="latin-1").split("\n")
    lines[2] = line
    path.write_text("\n".join(lines), encoding="latin-1")
    with pytest.raises(UserError) as caught:
        read("ml-1m", str(ml_1m_folder))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_second_rating_is_dropped_and_counted(ml_1m_folder):
    path = ml_1m_folder / "ratings.dat"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0]]) + "\n")
    raw = read("ml-1m", str(ml_1m_folder))
    assert len(raw.interactions) == len(lines)
    counts = {what: number for what, number in raw.counts.items() if number}
    assert counts == {"rows dropped: the same user, item": 1}


@pytest.mark.parametrize("name", ["ratings", "movies", "users"])
def test_missing_and_empty_files(ml_1m_folder, name):
    (ml_1m_folder / f"{name}.dat").write_bytes(b"")
    with pytest.raises(UserError, match=f"{name}.dat: Empty CSV file"):
        read("ml-1m", str(ml_1m_folder))
    (ml_1m_folder / f"{name}.dat").unlink()
    with pytest.raises(
        UserError, match=f"{name}.dat is missing|has no {name}.dat"
    ):
        read("ml-1m", str(ml_1m_folder))


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
    monkeypatch.setitem(
        download.ARCHIVES,
        "ml-1m",
        (f"{address}/ml-1m.zip", digest, "ratings.dat"),
    )
    return site / "ml-1m.zip"


def test_download_checks_unpacks_and_is_not_repeated(
    archive, tmp_path, capsys
):
    folder = data_folder("ml-1m")
    assert "no redistribution" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == [
        "movies.dat",
        "ratings.dat",
        "users.dat",
    ]
    # no scratch left
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["ml-1m"]
    archive.unlink()
    assert data_folder("ml-1m") == folder
    assert capsys.readouterr().err == ""
    assert len(read("ml-1m").users) == 60


def test_truncated_download_is_refused_and_leaves_nothing(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or altered"):
        data_folder("ml-1m")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_full_disk_leaves_nothing(archive, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_fetch", full)
    assert run_command(lambda argv: data_folder(*argv), ["ml-1m"]) == 2
    assert list((tmp_path / "root").iterdir()) == []


def test_no_connection_names_three_ways(archive):
    archive.unlink()
    with pytest.raises(UserError, match=r"\(1\).*\(2\).*\(3\)"):
        data_folder("ml-1m")


def test_data_dir_without_the_files(tmp_path):
    with pytest.raises(UserError, match=r"--data_dir .* has no ratings\.dat"):
        read("ml-1m", str(tmp_path))


def test_synthetic_data_are_frozen():
    """All rows of all tables, causes included."""
    texts = [
        file.frame.to_csv(index=False, lineterminator="\n")
        for file in generate().values()
    ]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest.startswith("40b0e012a99f94db")


def test_the_synthetic_data_are_what_the_generator_makes():
    for name, table in shipped().items():
        found = pd.read_csv(FOLDER / f"{name}.csv.gz", keep_default_na=False)
        pd.testing.assert_frame_equal(found, table, check_dtype=False)


def test_a_folder_in_place_of_a_file(ml_1m_folder):
    path = Path(ml_1m_folder / "users.dat")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"users\.dat is not a regular file"):
        read("ml-1m", str(ml_1m_folder))


def test_real_ml_1m_is_read_and_validated_in_under_4_seconds(real_data):
    started = time.process_time()
    raw = read("ml-1m", str(REAL))
    assert time.process_time() - started < 4
    assert (len(raw.interactions), len(raw.users), len(raw.items)) == (
        1_000_209,
        6_040,
        3_883,
    )
    assert raw.interactions.iloc[0][["user", "item", "rating"]].tolist() == [
        1,
        1193,
        "5",
    ]
    assert (
        raw.items.set_index("id").loc[73, "name"] == "Misérables, Les (1995)"
    )


def test_ml_1m_round_trip(ml_1m_folder, tiny):
    raw = read("ml-1m", str(ml_1m_folder))
    columns = ["user", "item", "rating", "time"]
    assert (
        raw.interactions[columns].to_numpy()
        == tiny.interactions[columns].to_numpy()
    ).all()
    assert raw.items["year"].tolist() == tiny.items["year"].tolist()
    assert raw.users["age"].tolist() == tiny.users["age"].tolist()


def test_ml_100k_own_files(tmp_path):
    (tmp_path / "u.data").write_text(
        "1\t1\t5\t874965758\n2\t2\t3\t888550871\n"
    )
    flags = ["0"] * 19
    flags[1] = flags[5] = "1"  # Action and Comedy; column 0 is 'unknown'
    films = [
        b"1|Caf\xe9 (1995)|01-Jan-1995||http://x|" + "|".join(flags).encode(),
        b"2|unknown||||" + "|".join(["1"] + ["0"] * 18).encode(),
    ]
    (tmp_path / "u.item").write_bytes(b"\n".join(films) + b"\n")
    (tmp_path / "u.user").write_text(
        "1|24|M|technician|85711\n2|7|F|other|94043\n"
    )
    (tmp_path / "u.occupation").write_text("other\ntechnician\n")
    raw = read("ml-100k", str(tmp_path))
    assert raw.items["genres"].tolist()[0] == ["Action", "Comedy"]
    assert raw.items["year"].iloc[0] == 1995 and np.isnan(
        raw.items["year"].iloc[1]
    )
    assert raw.users["occupation"].tolist() == ["technician", "other"]


def test_synthetic_causes_are_true():
    """Every stored cause can be checked: what came before, and when."""
    files = generate(people=100)
    ratings = files["interactions"].frame
    shares = ratings["cause"].value_counts(normalize=True)
    assert all(
        abs(shares[cause] - share) < 0.04 for cause, share in CAUSES.items()
    )
    sequel = {}
    for _, rows in ratings.groupby("user_id"):
        assert (
            rows["movie_id"].is_unique
            and rows["timestamp"].is_monotonic_increasing
        )
        films = rows["movie_id"].tolist()
        for place, row in enumerate(rows.itertuples()):
            if row.cause != "earlier_film":
                assert row.cause_movie_id == 0
                continue
            assert row.cause_movie_id in films[max(0, place - 3) : place]
            assert (
                sequel.setdefault(row.cause_movie_id, row.movie_id)
                == row.movie_id
            )
    in_season = ratings[ratings["cause"] == "season"]
    by_season = in_season.groupby(in_season["timestamp"].map(season_of))[
        "movie_id"
    ].nunique()
    assert (by_season <= 30).all()


def test_items_without_a_row_in_their_table_are_counted(ml_1m_folder):
    path = ml_1m_folder / "movies.dat"
    lines = path.read_text(encoding="latin-1").splitlines()
    path.write_text("\n".join(lines[1:]) + "\n", encoding="latin-1")
    counts = read("ml-1m", str(ml_1m_folder)).counts
    assert counts["items without a row in their table"] == 1


def test_items_that_nobody_had_are_counted(ml_1m_folder):
    path = ml_1m_folder / "movies.dat"
    text = path.read_text(encoding="latin-1")
    before = read("ml-1m", str(ml_1m_folder)).counts
    path.write_text(text + "99999::New (1999)::Drama\n", encoding="latin-1")
    counts = read("ml-1m", str(ml_1m_folder)).counts
    what = "items without an interaction, left out"
    assert counts[what] == before[what] + 1
