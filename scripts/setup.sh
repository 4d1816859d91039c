#!/usr/bin/env bash
# Makes a bare machine ready to build and test: installs what is missing through apt where that may be done, names
# what is missing where not, and fetches Kafka's jars, ONNX Runtime and Airflow. `setup.sh run` leaves out what only tests need.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-test}

# command:Debian package
needs=(cc:gcc c++:g++ make:make pkg-config:pkg-config python3:python3 setpriv:util-linux)
[ "$purpose" = run ] || needs+=(java:default-jre-headless mvn:maven chromium:chromium chromedriver:chromium-driver docker-compose:docker-compose openssl:openssl redis-server:redis-server)
missing=() packages=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null 2>&1 || { missing+=("${need%%:*}") packages+=("${need#*:}"); }
done
[ "$purpose" = run ] || python3 -c 'import ensurepip' 2>/dev/null || { missing+=("python3 -m venv") packages+=(python3-venv); }
# Its programs are on nobody's PATH; tests start a server of their own.
[ "$purpose" = run ] || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || { missing+=(PostgreSQL) packages+=(postgresql); }
# Kafka, PostgreSQL, Redis and HTTP are spoken to by the system's OpenSSL.
pkg-config --exists openssl 2>/dev/null || { missing+=("OpenSSL's headers") packages+=(libssl-dev); }
python3 -m pip --version >/dev/null 2>&1 || { missing+=("python3 -m pip") packages+=(python3-pip); }

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing ${packages[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" libc6-dev
    else
        echo "setup: missing: ${missing[*]}" >&2
        echo "setup: on Debian or Ubuntu: sudo apt-get install ${packages[*]} libc6-dev" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: missing: cargo (Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer)." >&2
    echo "setup: https://rustup.rs installs it; a distribution's own package is usually too old." >&2
    exit 1
fi

scripts/get-onnxruntime.sh
if [ "$purpose" != run ]; then
    scripts/get-kafka.sh
    scripts/get-schemathesis.sh
    scripts/get-airflow.sh
fi
