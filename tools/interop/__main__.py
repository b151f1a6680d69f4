"""Build the Go program: ``python -m tools.interop``."""

from __future__ import annotations

import sys
import time

from tools.interop.build import BINARY, BuildFailed, CannotBuild, build, is_built, required_version


def main() -> int:
    """Build the program unless it is built, with progress.  The status is 0 if it exists then."""
    title = f"interop (etcd's Go client {required_version()})"
    if is_built():
        print(f'{title}: {BINARY} is up to date')
        return 0
    start = time.monotonic()
    try:
        build(report=lambda line: print(f'{title}: {line}', flush=True))
    except (CannotBuild, BuildFailed) as error:
        print(f'{title}: {error}', file=sys.stderr)
        return 1
    print(f'{title}: {BINARY}, {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
