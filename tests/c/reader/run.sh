#!/usr/bin/env bash
# Builds and runs the tests of libmmsb/include/mmsb_reader.h: with every compiler that is here, as C11 and as C++17,
# strict, plain and under the address and undefined-behaviour sanitizers. The last line is
# `test result: ok. N passed; N failed;`.
#
#     tests/c/reader/run.sh MMSB      MMSB: the built command, such as target/debug/mmsb
#
# CC                compilers to use (default: "gcc clang"; the C++ one of each goes with it). One that is missing is
#                   skipped, and is a failure with MMSB_REQUIRE_FOREIGN=1
# HOSTILE_VARIANTS  random damages tried, beside the systematic ones (default 3000)
set -euo pipefail
if [[ $# -ne 1 || ! -x $1 ]]; then
    echo "usage: $0 path-of-mmsb" >&2
    exit 2
fi
mmsb=$(realpath "$1")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
root=$(realpath "$here/../../..")
# Buses lie on a tmpfs, programs elsewhere: /dev/shm of a container may be mounted noexec.
shm=$(mktemp -d /dev/shm/mmsb-c-reader.XXXXXX)
tmp=$(mktemp -d)
trap 'rm -rf "$shm" "$tmp"' EXIT
strict=(-Wall -Wextra -Werror -pedantic -Wshadow -Wconversion -Wcast-qual -Wcast-align -g)
plain=(-Wall -Wextra -Werror -pedantic -g)
passed=0
failed=0

# The counts of a program's last line; a program that died before it is one failure.
count() {
    local name=$1 log=$2 ok bad
    read -r ok bad < <(awk '/^test result:/ { for (i = 2; i <= NF; i++) { if ($i == "passed;") ok = $(i - 1)
        if ($i == "failed;") bad = $(i - 1) } } END { print ok + 0, (bad == "") ? 1 : bad }' "$log")
    grep -v '^test result:\| \.\.\. ok$' "$log" | sed "s|^test |test $name |" || true
    echo "$name: $ok passed, $bad failed"
    passed=$((passed + ok))
    failed=$((failed + bad))
}

# try NAME ARGUMENT... -- COMPILER...: builds one program and runs it in a directory of its own.
try() {
    local name=$1 dir log=$tmp/log arguments=()
    shift
    while [[ $1 != -- ]]; do arguments+=("$1") && shift; done
    shift
    dir=$(mktemp -d "$shm/bus.XXXXXX")
    if "$@" -I"$root/libmmsb/include" -o "$tmp/program" >"$log" 2>&1; then
        # Its last line says how it went; without one it died.
        timeout 300 "$tmp/program" "$mmsb" "$dir" "${arguments[@]}" >"$log" 2>&1 || true
    fi
    count "$name" "$log"
    rm -rf "$dir"
}

# builds NAME ARGUMENT... -- COMPILER...: a program that has only to compile.
builds() {
    local name=$1
    shift 2
    if "$@" -I"$root/libmmsb/include" -o "$tmp/program"; then
        passed=$((passed + 1))
    else
        echo "test $name ... FAILED"
        failed=$((failed + 1))
    fi
}

for cc in ${CC:-gcc clang}; do
    cxx=${cc/clang/clang++}
    cxx=${cxx/gcc/g++}
    for compiler in "$cc" "$cxx"; do
        if ! command -v "$compiler" >/dev/null; then
            echo "skipped: no $compiler"
            [[ ${MMSB_REQUIRE_FOREIGN:-0} != 1 ]] || failed=$((failed + 1))
            continue
        fi
        # C++ compilers take .c files for C++ when told so.
        if [[ $compiler == "$cxx" ]]; then
            as=("$compiler" -std=c++17 -x c++ "${plain[@]}")
        else
            as=("$compiler" -std=c11 "${strict[@]}")
        fi
        # Not every clang comes with the runtime of its sanitizers; undefined behaviour can trap without one.
        sanitized=(-O1 -fsanitize=address,undefined -fno-sanitize-recover=all)
        if ! "$compiler" -x c "${sanitized[@]}" -o "$tmp/program" - <<<'int main(void) { return 0; }' 2>/dev/null; then
            echo "$compiler: no runtime of the address sanitizer; undefined behaviour traps"
            sanitized=(-O1 -fsanitize=undefined -fsanitize-undefined-trap-on-error)
        fi
        for test in test_reader test_follow; do
            try "$compiler/$test" -- "${as[@]}" -O2 "$here/$test.c"
            try "$compiler/$test/sanitized" -- "${as[@]}" "${sanitized[@]}" "$here/$test.c"
        done
        builds "$compiler/stranger" -- "${as[@]}" -O2 "$root/tests/strangers/stranger.c"
        builds "$compiler/example" -- "${as[@]}" -O2 "$root/examples/c/read_page.c"
        variants=${HOSTILE_VARIANTS:-3000}
        if [[ $compiler == "$cc" ]]; then
            # Under the address sanitizer copies go by words; by vectors elsewhere.
            try "$compiler/hostile/sanitized" "$variants" -- "${as[@]}" "${sanitized[@]}" "$here/hostile.c"
            try "$compiler/test_reader/words" -- "${as[@]}" -O2 -DMMSB_READER_BY_WORDS "$here/test_reader.c"
        elif [[ $compiler == g++ ]]; then
            try "$compiler/hostile" "$variants" 7 -- "${as[@]}" -O2 "$here/hostile.c"
        fi
    done
done

if [[ $failed -eq 0 ]]; then verdict=ok; else verdict=FAILED; fi
echo "test result: $verdict. $passed passed; $failed failed;"
[[ $failed -eq 0 ]]
