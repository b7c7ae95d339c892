"""Errors that a user can fix, and how a script reports them."""

import difflib
import errno
import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LONGEST_NAME, MOST_NAMES = 100, 20_000  # among which a wrong one is sought
ROOT = Path(__file__).resolve().parent.parent
# Packages that not every program needs -> the file that lists them.
EXTRAS = {
    "fastapi": "serving",
    "uvicorn": "serving",
    "starlette": "serving",
    "prometheus_client": "serving",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "ray": "ray",
}
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class UserError(Exception):
    """An error that the user can fix. The message is one line: file, line or flag, and the remedy.
    """


def require(condition: Any, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint for an error message: the known name most similar to a wrong one, if any is
    similar."""
    # Likeness takes time that grows with both lengths.
    if len(name) > LONGEST_NAME:
        return otherwise
    names = [one for one in known if len(one) <= LONGEST_NAME][:MOST_NAMES]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise


def is_of_disk(error: Exception) -> bool:
    """Whether an error comes from a file or a full disk, not from the program or the network."""
    if not isinstance(error, OSError) or error.errno is None:
        return False
    return error.filename is not None or error.errno in FULL


def _installing(name):
    """How to install a package."""
    if name in EXTRAS:
        return f"pip install -r requirements-{EXTRAS[name]}.txt"
    return (
        "activate the environment (make setup, then source .venv/bin/activate), or pip install -r "
        "requirements.txt"
    )


def run_command(
    main: Callable[[list[str]], int | None], argv: list[str] | None = None
) -> int:
    """Run a script's `main` and return its exit code: 2, with one line on stderr, for a
    `UserError`.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal may lack the letters of a name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return main(sys.argv[1:] if argv is None else argv) or 0
    except UserError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        own = [ROOT / f"{name}.py", ROOT / name / "__init__.py"]
        if not name or any(path.exists() for path in own):
            raise
        message = f"the package {name} is not installed: {_installing(name)}"
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        if not is_of_disk(error):
            raise
        remedy = "choose another place"
        if error.errno in FULL:
            remedy = f"free some space or {remedy}"
        message = f"{error.filename or 'a file'}: {error.strerror}; {remedy}"
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
