#!/bin/sh
# Tests the Julia package offline, by Pkg.test in a private depot: run.sh MMSB_BIN [LIBMMSB_SO]
#
# MMSB_BIN is the command `mmsb`, which makes the buses; without LIBMMSB_SO the full face is skipped. JULIA names another julia.
# The last line counts: `test result: ok. N passed; 0 failed;`.
set -eu

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: run.sh MMSB_BIN [LIBMMSB_SO]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
MMSB_BIN=$(realpath "$1")
export MMSB_BIN
if [ $# -eq 2 ]; then
    MMSB_LIBRARY=$(realpath "$2")
    export MMSB_LIBRARY
else
    unset MMSB_LIBRARY
fi

depot=$(mktemp -d "${TMPDIR:-/tmp}/mmsb-julia.XXXXXX")
trap 'rm -rf "$depot"' EXIT
trap 'exit 130' INT TERM
export JULIA_DEPOT_PATH="$depot" JULIA_PKG_OFFLINE=true JULIA_PKG_SERVER="" MMSB_TEST_TALLY="$depot/tally"
# Pkg wants to fetch a registry when there is none; an empty one that is there needs no network.
mkdir -p "$depot/registries/Empty"
printf 'name = "Empty"\nuuid = "2c7ab1d2-6e0c-4c8e-8d6b-5a0f6f1c9a01"\nrepo = ""\n\n[packages]\n' \
    >"$depot/registries/Empty/Registry.toml"
# A copy, because Pkg writes a manifest beside the project.
mkdir "$depot/project"
cp -R "$here/../Project.toml" "$here/../src" "$here" "$depot/project/"
MMSB_TREE=$(cd "$here/../../.." && pwd)
export MMSB_TREE

status=0
"$here/julia.sh" --startup-file=no --color=no --project="$depot/project" -e 'using Pkg; Pkg.test("MMSB")' || status=$?
if [ -r "$MMSB_TEST_TALLY" ]; then
    cat "$MMSB_TEST_TALLY"
    exit "$status"
fi
echo "test result: FAILED. 0 passed; 1 failed;"
exit 1
