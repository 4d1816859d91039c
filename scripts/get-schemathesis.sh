#!/usr/bin/env bash
# Makes a Python environment with schemathesis, which tests the API against its own description. Prints its program; does
# nothing when it is already there.
set -euo pipefail

version=4.32.5
cache=${BULKHEAD_CACHE:-$HOME/.cache/bulkhead}
home=$cache/schemathesis-$version

if [ ! -x "$home/.complete/bin/st" ]; then
    mkdir -p "$home"
    # Made where it will lie: an environment cannot be moved. Whoever comes second waits, and finds it done.
    exec 9>"$home/.lock"
    flock 9
    if [ ! -x "$home/.complete/bin/st" ]; then
        echo "get-schemathesis: installing schemathesis $version into $home" >&2
        rm -rf "$home/venv"
        python3 -m venv "$home/venv"
        "$home/venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" >&2
        ln -sfn venv "$home/.complete"
    fi
fi
echo "$home/venv/bin/st"
