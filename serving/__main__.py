"""Serve a trained model: `python -m serving --model_path checkpoints/best`, then open
http://127.0.0.1:8000

Several workers share one copy of the weights in memory. A new checkpoint in the folder is served as
soon as it is there. Ctrl-C answers the open requests and ends.
"""

import dataclasses
import ipaddress
import json
import os
import sys
import tempfile
from pathlib import Path

from support.arguments import model_parser, whole
from support.errors import UserError, run_command

# oneDNN keeps a kernel for each shape of a product, a thousand by default, and requests have many
# shapes: workers would grow for minutes (benchmarks/LOG.md).
KERNELS = "16"


def _parser():
    cores = os.cpu_count() or 1
    parser = model_parser(__doc__)
    add = parser.add_argument
    vanilla = "the model to compare with where it fits the data, '' for none"
    add("--vanilla_path", default="models/vanilla", help=vanilla)
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: this machine alone)",
    )
    add("--port", type=whole(1, 65535), default=8000)
    add(
        "--workers",
        type=whole(1, 1000),
        default=cores,
        help="processes (default: one a core)",
    )
    return parser


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    # They take seconds to import.
    from serving.app import ENVIRONMENT
    from serving.engines import Config, Engines

    hosts = _names(flags.host)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
    threads = max(1, (os.cpu_count() or 1) // flags.workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory() as shared:
        config = Config(
            str(flags.model_path),
            flags.vanilla_path,
            flags.data_dir,
            hosts,
            copies=str(Path(shared, "weights")),
            parent=os.getpid(),
        )
        # What is wrong with them is said here, once, and not by each worker.
        Engines(config)
        os.environ[ENVIRONMENT] = json.dumps(dataclasses.asdict(config))
        if flags.workers > 1:
            counters = Path(shared, "counters")
            counters.mkdir()
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(counters)
        import uvicorn

        from serving.connections import Connection

        print(f"http://{flags.host}:{flags.port}", flush=True)
        uvicorn.run(
            "serving.app:from_environment",
            factory=True,
            host=flags.host,
            port=flags.port,
            workers=flags.workers,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=30,
            limit_concurrency=1000,
            server_header=False,
            http=Connection,
        )


def _names(host):
    """Host names that the service accepts."""
    try:
        loopback = (
            host == "localhost" or ipaddress.ip_address(host).is_loopback
        )
    except ValueError:
        raise UserError(
            f"--host {host}: give an address such as 127.0.0.1"
        ) from None
    return ("localhost", "127.0.0.1", "[::1]", host) if loopback else ("*",)


if __name__ == "__main__":
    sys.exit(run_command(main))
