#!/usr/bin/env bash
# Puts ONNX Runtime's shared library where bulkhead looks for it, and prints its path. Does nothing where it is there.
#
# It comes out of PyPI's onnxruntime wheel, version and SHA-256 pinned here. No Python is needed to run bulkhead; pip
# only fetches the file. The version is the one that the `ort` crate in Cargo.toml was written for (it takes >= 1.17).
set -euo pipefail

version=1.31.1
case "$(uname -s)-$(uname -m)" in
Linux-x86_64)
	platform=manylinux_2_28_x86_64
	sha256=1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536
	;;
Linux-aarch64)
	platform=manylinux_2_28_aarch64
	sha256=0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc
	;;
*)
	echo "get-onnxruntime: no pinned wheel for $(uname -s) $(uname -m)." >&2
	echo "Install ONNX Runtime >= 1.17 and set ORT_DYLIB_PATH to its shared library." >&2
	exit 1
	;;
esac

place="${BULKHEAD_CACHE:-${HOME:?HOME is not set; set BULKHEAD_CACHE}/.cache/bulkhead}/onnxruntime"
library="$place/libonnxruntime.so"
if [ "$(readlink "$library" 2>/dev/null)" = "libonnxruntime.so.$version" ] && [ -s "$library" ]; then
	echo "$library"
	exit 0
fi

if ! python3 -m pip --version >/dev/null 2>&1; then
	echo "get-onnxruntime: python3 with pip is needed to fetch ONNX Runtime $version." >&2
	echo "Install it, or install ONNX Runtime >= 1.17 and set ORT_DYLIB_PATH to its shared library." >&2
	exit 1
fi

mkdir -p "$place"
work=$(mktemp -d "$place/.get.XXXXXX") # beside its place, so that the last step is a rename
trap 'rm -rf "$work"' EXIT
echo "onnxruntime==$version --hash=sha256:$sha256" >"$work/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
	--implementation cp --python-version 3.12 --platform "$platform" --dest "$work" -r "$work/requirements.txt" >&2
python3 -m zipfile -e "$work"/onnxruntime-*.whl "$work/wheel"
mv "$work/wheel/onnxruntime/capi/libonnxruntime.so.$version" "$place/"
ln -sf "libonnxruntime.so.$version" "$work/link"
mv -T "$work/link" "$library"
echo "$library"
