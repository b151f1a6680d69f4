"""Build the Go program: ``python -m tools.interop``.

With ``--if-possible`` it is no failure that there is no Go, or no proxy for its modules.
"""

from __future__ import annotations

import argparse
import sys
import time

from tools.interop.build import BINARY, BuildFailed, CannotBuild, build, is_built, required_version


def main(arguments: list[str] | None = None) -> int:
    """Build the program unless it is built, with progress.  The status is 0 if it exists then."""
    parser = argparse.ArgumentParser(prog='python -m tools.interop')
    parser.add_argument(
        '--if-possible', action='store_true', help='succeed where there is no Go, or no proxy for its modules'
    )
    options = parser.parse_args(arguments)
    title = f"interop (etcd's Go client {required_version()})"
    if is_built():
        print(f'{title}: {BINARY} is up to date')
        return 0
    start = time.monotonic()
    try:
        build(report=lambda line: print(f'{title}: {line}', flush=True))
    except CannotBuild as error:
        print(f'{title}: {"SKIPPED: " if options.if_possible else ""}{error}', file=sys.stderr)
        return 0 if options.if_possible else 1
    except BuildFailed as error:
        print(f'{title}: {error}', file=sys.stderr)
        return 1
    print(f'{title}: {BINARY}, {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
