"""The layout: imports point one way, modules say what they are, the map of the code is complete."""

import ast
import hashlib
import re
import shutil
import subprocess
import tomllib
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not {".venv", ".venv-peers", "tests", ".git"}
    & set(path.relative_to(ROOT).parts)
)
# Earlier rows know nothing of later ones; names in one row do not import each other.
ORDER = [
    {"support"},
    {"settings", "schema"},
    {"presets", "splits", "answers"},
    {"command_line"},
    {"fields"},
    {"description"},
    {"dataset", "readers"},
    {
        "data_card",
        "vocabulary",
        "item_search",
        "exporting",
        "auto_preset",
        "pair_counts",
    },
    {"item_regression"},
    {"storage"},
    {"data_processor"},
    {"outputs"},
    {"transformer", "losses"},
    {"batches"},
    {"views", "sampling"},
    {"training_batches"},
    {"features", "graph", "text_vectors", "scorer", "transitions"},
    {"heads"},
    {"reranking"},
    {"baselines"},
    {"evaluation"},
    {"objectives"},
    {"training_state", "optimizer"},
    {"rivals"},
    {"blending"},
    {"training_loop", "run_folder"},
    {"enhanced_model"},
    {"bert4rec"},
    {"growth", "trained_users", "trained_items"},
    {"model_io"},
    {"starting", "measuring"},
    {"explanations", "profiles", "histories"},
    {"queries"},
    {"engine"},
    {"training_run"},
    {"trainer"},
    {"bert_multi"},
    {"bulk"},
    {"vectors"},
    {"inference_flags"},
    {"inference"},
    {"serving"},
    {"benchmarks", "ablations", "examples"},
]
LATE = {
    "wandb",
    "ruamel",
    "accelerate",
    "rich",
    "pandas",
    "safetensors",
    "pyarrow",
    "duckdb",
    "sklearn",
    "torch_geometric",
    "rectools",
    "ray",
    "uvicorn",
    "httpx",
}


def name_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path, everywhere=True):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_one_way(path):
    level = {name: number for number, row in enumerate(ORDER) for name in row}
    own = name_of(path)
    assert own in level, f"{own} has no place in the order of imports"
    upward = {
        name for name in imports(path) if level.get(name, -1) > level[own]
    }
    assert not upward


def test_no_circle_of_imports_inside_a_folder_either():
    """Every module comes after those that it imports, late imports counted."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }
    below = {}
    for name, path in names.items():
        wanted = set(imported_modules(path))
        below[name] = {
            other for other in wanted if other in names and other != name
        }
    TopologicalSorter(below).prepare()


def imported_modules(path):
    """Modules by their whole names; 'from folder import module' gives both."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_modules_say_what_they_are_and_stay_small(path):
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, (
                f"{node.name} is too long"
            )


def test_public_functions_have_docstrings_and_types():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef | ast.Module)
            and not getattr(node, "name", "").startswith("_")
        ]
        for node in (node for owner in public for node in owner.body):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith(
                "_"
            ):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
                assert node.returns is not None, (
                    f"{path.name}: {node.name} has no return type"
                )


def test_heavy_packages_are_imported_late():
    """A machine without W&B can train, and nothing slow loads before it is needed."""
    for path in MODULES:
        # One runs in an environment of its own, the others are imported late themselves.
        alone = path.name in ("peers.py", "connections.py")
        if alone or path.parent.name == "storage":
            continue
        early = set(imports(path, everywhere=False)) & (LATE - {"pandas"})
        assert not early, f"{path.name} imports {early} at its head"


@pytest.mark.parametrize("name", ["README.md", "docs/code.md"])
def test_the_map_names_every_root_module_and_folder(name):
    page = (ROOT / name).read_text(encoding="utf-8")
    for path in MODULES:
        first = path.relative_to(ROOT).parts[0]
        name = first if first.endswith(".py") else first + "/"
        # Not as a part of another name.
        there = re.search(rf"(?<![\w/]){re.escape(name)}", page)
        assert there, f"{name} is missing from the map"


def test_readme_flags_exist():
    """Every flag that the README and the page of commands show is one that a script takes."""
    from inference_flags import parser_of
    from settings import FIELDS

    known = set(FIELDS) | {
        "preset",
        "config",
        "resume",
        "help",
        "nproc_per_node",
    }
    known |= {
        "size",
        "until",
        "write_schema",
        "board",
        "jobs",
        "onnx",
        "seeds",
        "ray",
    }  # of other scripts
    known |= {
        option.lstrip("-")
        for action in parser_of("")._actions
        for option in action.option_strings
    }
    pages = ("README.md", "docs/commands.md")
    text = "".join((ROOT / page).read_text("utf-8") for page in pages)
    for flag in re.findall(r"(?<![\w-])--([a-z][a-z_-]+)", text):
        assert flag in known or flag.removeprefix("no_") in known, flag


@pytest.mark.skipif(shutil.which("make") is None, reason="make is absent")
def test_make_help_lists_every_target():
    """And no target runs anything just to be looked at."""
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = (
        re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
        .group(1)
        .split()
    )
    assert all(f"make {target}" in text for target in targets)


def test_all_modules_can_be_installed():
    """`pip install -e .` names each module and package."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    named = content["tool"]["setuptools"]
    modules = [path.stem for path in ROOT.glob("*.py")]
    packages = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    assert sorted(named["py-modules"]) == sorted(modules)
    assert sorted([*named["packages"], "tests"]) == sorted(packages)


def test_requirements_are_pinned_and_explained():
    """One line a package: an exact version, and in the main file why it is here."""
    for name in (
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-text.txt",
        "requirements-ray.txt",
        "benchmarks/requirements-peers.txt",
    ):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                assert re.match(r"[A-Za-z0-9.,\[\]-]+==[\d.]+(\s|$)", line), line
                assert name != "requirements.txt" or "#" in line, line


def test_every_package_of_setup_is_locked_by_its_hashes():
    """And the lock has the very versions that the requirements pin."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        name, version = re.match(r"([a-z0-9-]+)==(\S+)", entry).groups()
        locked.setdefault(name, []).append(version)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
    wanted = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", wanted, re.MULTILINE
    ):
        if name != "torch":  # in the build for this machine
            assert locked[name.replace(".", "-")] == [version]


def test_vendored_files_are_as_published():
    vendor = ROOT / "serving" / "static" / "vendor"
    sums = dict(
        reversed(line.split("  "))
        for line in (vendor / "SHA256SUMS").read_text().splitlines()
    )
    there = {path.name for path in vendor.iterdir()}
    assert there == {*sums, "README.md", "SHA256SUMS"}
    for name, digest in sums.items():
        assert (
            hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
        )


FILM_WORDS = re.compile(
    r"(?<![a-z])(films?|movies?|genres?|gender|occupations?|watched)(?![a-z])",
    re.IGNORECASE,
)
# The one set of films whose truth is known, and the download of MovieLens by its name.
ABOUT_FILMS = {"readers", "datasets", "examples"}


def words_of(path):
    """(line, text) of each name and string of a module that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.arg):
            yield node.lineno, getattr(node, "id", None) or node.arg
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in texts
        ):
            yield node.lineno, node.value


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_code_knows_no_films(path):
    """What a data set is about is said by its schema alone."""
    if name_of(path) in ABOUT_FILMS:
        return
    found = [
        (line, text)
        for line, text in words_of(path)
        if FILM_WORDS.search(text.replace("_", " "))
    ]
    assert not found, found
