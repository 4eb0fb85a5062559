#!/usr/bin/env bash
# Runs the tests of mmsb_reader against the command `mmsb`, and ends with a line of the form that cargo's tests end with.
#
#   libmmsb/python/tests/run.sh [MMSB]
#
# MMSB is the path of the command (default: $MMSB_BIN, target/debug/mmsb, the PATH). PYTHON is the interpreter (the first
# python3 that has numpy, else the first one). Tests that need numpy are skipped without it; with MMSB_REQUIRE_FOREIGN=1 they
# fail. MMSB_HOSTILE is the number of damaged segments (3000).
set -uo pipefail
if [[ $# -gt 0 ]]; then MMSB_BIN=$(realpath "$1") && export MMSB_BIN; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z ${PYTHON:-} ]]; then
    for PYTHON in python3 /usr/bin/python3; do
        if "$PYTHON" -c 'import numpy' 2>/dev/null; then break; fi
        PYTHON=python3
    done
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
PYTHONDONTWRITEBYTECODE=1 "$PYTHON" -X faulthandler -m unittest discover -t . -s tests -v 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
# A test that fails in several ways counts as often; a program that died before its summary counts as one.
awk -v status="$status" '
    /^Ran [0-9]+ tests? in/ { ran = $2 }
    /^(OK|FAILED)/ { if (match($0, /skipped=[0-9]+/)) skipped = substr($0, RSTART + 8, RLENGTH - 8) }
    /^(FAIL|ERROR): / { failed++; print "test " $2 " ... FAILED" }
    END {
        if (status != 0 && failed == 0) failed = 1
        passed = ran - failed - skipped
        if (passed < 0) passed = 0
        printf "test result: %s. %d passed; %d failed; %d ignored;\n", failed ? "FAILED" : "ok", passed, failed, skipped
    }' "$log"
exit "$status"
