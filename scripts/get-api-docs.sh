#!/usr/bin/env bash
# Fetches Swagger UI and ReDoc, which the daemon carries for /docs and /redoc, from their npm packages at pinned versions,
# and keeps their minified bundles compressed, with licences, in src/gateway/docs/assets. Run by hand when a version is to
# change; what it makes is in the repository, so building needs neither npm nor a network. The same input makes the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

assets=$PWD/src/gateway/docs/assets
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # package, version, SHA-512 of its archive
    local archive
    archive=$(cd "$work" && npm pack --silent "$1@$2")
    echo "$3  $work/$archive" | sha512sum --check --quiet
    mkdir -p "$work/$1"
    tar -xzf "$work/$archive" -C "$work/$1" --strip-components=1
    printf '%s %s\n' "$1" "$2" >>"$work/VERSIONS"
}

keep() { # file in a package, name
    gzip -9 -n -c "$work/$1" >"$assets/$2.gz"
}

fetch swagger-ui-dist 5.35.0 534eaba4cb56f55dd73c638179a993512af4674f63317e0826e00da44fc465b021c341bc0a0c2bcd4e18997927fe1d3008336c5dd19aad334d1c2dec53cc9551
fetch redoc 2.5.4 33a8d6846d6aa019c7e93166cc99ecb72099f3b1e6398fd4cc39bbf261e262284476557f61c4bda203a8d4d94496724c78bb32c4715edb215ce2c3631d3ac005
# ReDoc shows a picture of its makers' host; nothing is loaded from elsewhere here, so an empty one takes its place.
sed -i 's|https://cdn.redoc.ly/redoc/logo-mini.svg|data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E|' \
    "$work/redoc/bundles/redoc.standalone.js"
rm -rf "$assets"
mkdir -p "$assets"
keep swagger-ui-dist/swagger-ui-bundle.js swagger-ui-bundle.js
keep swagger-ui-dist/swagger-ui.css swagger-ui.css
keep redoc/bundles/redoc.standalone.js redoc.standalone.js
cp "$work/VERSIONS" "$assets/VERSIONS"
cat "$work/swagger-ui-dist/LICENSE" "$work/swagger-ui-dist/NOTICE" "$work/swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt" >"$assets/swagger-ui.LICENSE.txt"
cat "$work/redoc/LICENSE" "$work/redoc/bundles/redoc.standalone.js.LICENSE.txt" >"$assets/redoc.LICENSE.txt"
du -h "$assets"/*
