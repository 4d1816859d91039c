#!/usr/bin/env bash
# Puts Apache Airflow into a virtual environment of its own, for the tests of the uploads system, with what its DAGs need
# to work on pictures. Prints the environment's folder; does nothing where it is there. No daemon needs it.
#
# The version is pinned here, those of what it depends on in config/airflow/constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

version=3.3.2
requirements=config/airflow/requirements.txt constraints=config/airflow/constraints.txt
cache=${BULKHEAD_CACHE:-${HOME:?HOME is not set; set BULKHEAD_CACHE}/.cache/bulkhead}
place=$cache/airflow-$version
wanted="$version $(cat "$requirements" "$constraints" | sha256sum | cut -d' ' -f1)"

if [ "$(cat "$place/.complete" 2>/dev/null)" = "$wanted" ]; then
    echo "$place"
    exit 0
fi

if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "get-airflow: installing python3-venv" >&2
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >&2
    else
        echo "get-airflow: needs Python 3.10 or newer with venv; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi

mkdir -p "$cache"
exec 9>"$cache/airflow.lock"
flock 9
if [ "$(cat "$place/.complete" 2>/dev/null)" = "$wanted" ]; then
    echo "$place"
    exit 0
fi
echo "get-airflow: installing Apache Airflow $version into $place" >&2
rm -rf "$place"
python3 -m venv "$place"
# Versions that were tried together; pip may leave them where this Python needs others.
pip() { nice "$place/bin/pip" install --quiet --disable-pip-version-check "$@" >&2; }
pip -r "$requirements" "apache-airflow==$version" --constraint "$constraints" ||
    { echo "get-airflow: $constraints does not fit this Python; pip resolves versions by itself" >&2
      pip -r "$requirements" "apache-airflow==$version"; }
echo "$wanted" >"$place/.complete"
echo "$place"
