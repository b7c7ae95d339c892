"""`python -m readers ml-1m` makes sure that a data set is there, for scripts that must know
before they start.

Exit code 0: it is there, downloaded if need be. 3: it can be neither found nor downloaded. 2: the
download is unusable.
"""

import sys

from readers.download import ARCHIVES, DataUnavailable, data_folder
from support.errors import UserError, run_command


def main(argv: list[str]) -> int:
    """See the module's head."""
    if len(argv) != 1 or argv[0] not in ARCHIVES:
        raise UserError(f"usage: python -m readers {'|'.join(ARCHIVES)}")
    try:
        data_folder(argv[0])
    except DataUnavailable as error:
        print(f"note: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
