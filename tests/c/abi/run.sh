#!/usr/bin/env bash
# The tests of the C ABI.
#
#   run.sh LIBDIR MMSB [CC...]
#
# LIBDIR has libmmsb.so and libmmsb.a; MMSB is the program `mmsb`, with `mmsb-agent` beside it; CC are the C compilers to try,
# gcc and clang if they are there. Each compiler builds every program as C11 and as C++17, with warnings for errors, plain and
# with the address and undefined-behaviour sanitizers (leaks included); one build is linked statically. Then the tree is
# installed into a directory, and the examples are built from there with pkg-config and with CMake.
# The last line is `test result: ok. N passed; 0 failed;`, or FAILED. Exit status 0 only if nothing failed.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
lib=$(realpath "$1")
mmsb=$(realpath "$2")
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
compilers=("$@")
if [[ ${#compilers[@]} -eq 0 ]]; then
    for cc in gcc clang; do
        if command -v "$cc" >/dev/null; then compilers+=("$cc"); fi
    done
fi
for file in "$lib/libmmsb.so" "$lib/libmmsb.a" "$mmsb"; do
    if [[ ! -e $file ]]; then
        echo "run.sh: no $file" >&2
        exit 2
    fi
done

work=$(mktemp -d "${TMPDIR:-/tmp}/mmsb-abi.XXXXXX")
segments=$(mktemp -d /dev/shm/mmsb-abi.XXXXXX)
children=()
finish() {
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    rm -rf "$work" "$segments"
}
trap finish EXIT
passed=0
failed=0

# The loader looks for the soname.
mkdir "$work/lib"
ln -s "$lib/libmmsb.so" "$work/lib/libmmsb.so"
ln -s "$lib/libmmsb.so" "$work/lib/libmmsb.so.1"
mkdir "$work/static"
ln -s "$lib/libmmsb.a" "$work/static/libmmsb.a"

# claim NAME COMMAND...: one test; what it prints is seen only if it fails.
claim() {
    local name=$1
    shift
    echo -n "test $name ... "
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo ok
    else
        failed=$((failed + 1))
        echo FAILED
        sed 's/^/    /' "$work/said"
    fi
}

# program LABEL COMMAND...: a test program, whose own counts are added.
program() {
    local label=$1 status=0 ok bad
    shift
    echo "-- $label"
    "$@" >"$work/said" 2>&1 || status=$?
    cat "$work/said"
    read -r ok bad < <(awk '/^result: / { ok = $2; bad = $4 } END { print ok + 0, bad + 0 }' "$work/said")
    if [[ $status -ne 0 && $bad -eq 0 ]]; then
        echo "$label: exit status $status"
        bad=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
}

warnings=(-Wall -Wextra -Werror -pedantic)
tests=(handles bus pages threads follow durable)
wanted=("${tests[@]}")

cxx_of() {
    case $1 in
    *clang*) echo "${1/clang/clang++}" ;;
    *gcc*) echo "${1/gcc/g++}" ;;
    *) echo "" ;;
    esac
}

# build OUT COMPILER LANGUAGE FLAGS...: all test programs, into OUT.
build() {
    local out=$1 compiler=$2 language=$3 test
    shift 3
    mkdir -p "$out"
    for test in "${wanted[@]}"; do
        "$compiler" -x "${language%%:*}" "-std=${language##*:}" -D_GNU_SOURCE "${warnings[@]}" -g -O1 \
            -I"$root/libmmsb/include" "$here/$test.c" -x none -o "$out/$test" "$@" || return 1
    done
}

run_all() {
    local label=$1 out=$2 test
    shift 2
    for test in "${tests[@]}"; do
        if [[ -x $out/$test ]]; then program "$label: $test" env LD_LIBRARY_PATH="$work/lib" "$@" "$out/$test"; fi
    done
}

dynamic=(-L"$work/lib" -lmmsb -lpthread)
sanitized=(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
export UBSAN_OPTIONS=print_stacktrace=1
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1

was_sanitized=
for cc in "${compilers[@]}"; do
    cxx=$(cxx_of "$cc")
    printf '#include <mmsb.h>\n#include <mmsb.h>\nint main(void) { return (int)mmsb_abi_version() - MMSB_ABI_VERSION; }\n' \
        >"$work/twice.c"
    for standard in c11 c17; do
        claim "$cc: the header is clean $standard" "$cc" -std=$standard "${warnings[@]}" -I"$root/libmmsb/include" \
            -fsyntax-only "$work/twice.c"
    done
    claim "$cc: the tests build as C11" build "$work/$cc-c11" "$cc" c:c11 "${dynamic[@]}"
    run_all "$cc C11" "$work/$cc-c11"
    if [[ -n $cxx ]] && command -v "$cxx" >/dev/null; then
        for standard in c++17 c++20; do
            claim "$cxx: the header is clean $standard" "$cxx" -x c++ -std=$standard "${warnings[@]}" \
                -I"$root/libmmsb/include" -fsyntax-only "$work/twice.c"
        done
        claim "$cxx: the tests build as C++17" build "$work/$cc-cxx" "$cxx" c++:c++17 "${dynamic[@]}"
        run_all "$cxx C++17" "$work/$cc-cxx"
    fi
    # Their runtime is a package of its own with some compilers.
    if ! "$cc" "${sanitized[@]}" -I"$root/libmmsb/include" "$work/twice.c" -o "$work/probe" "${dynamic[@]}" 2>/dev/null; then
        echo "skipped: $cc comes without its sanitizers here"
        continue
    fi
    was_sanitized=1
    claim "$cc: the tests build with sanitizers" build "$work/$cc-san" "$cc" c:c11 "${dynamic[@]}" "${sanitized[@]}"
    run_all "$cc sanitized" "$work/$cc-san"
done

claim "at least one compiler has its sanitizers" test -n "$was_sanitized"

cc=${compilers[0]}
# Not all of them: the archive is large.
wanted=(handles durable)
claim "$cc: the tests link statically" build "$work/$cc-static" "$cc" c:c11 -L"$work/static" -lmmsb -lpthread -ldl -lm \
    -lgcc_s
run_all "$cc static" "$work/$cc-static"

# Every function is tried with bad handles, and nothing else is exported.
nm -D --defined-only "$lib/libmmsb.so" | awk '{ print $3 }' | sort >"$work/exported"
grep -o '\bmmsb_[a-z0-9_]*(' "$root/libmmsb/include/mmsb.h" | tr -d '(' | grep -v '_detail' | sort -u >"$work/declared"
LD_LIBRARY_PATH=$work/lib "$work/$cc-c11/handles" --names | sort -u >"$work/tried"
claim "the library exports what the header declares, and no more" diff "$work/exported" "$work/declared"
claim "every function is tried with bad handles" diff "$work/exported" "$work/tried"
claim "the soname is libmmsb.so.1" grep -q 'SONAME.*\[libmmsb.so.1\]' <(readelf -d "$lib/libmmsb.so")

# Installed, and used from there.
installed() {
    mkdir -p "$work/target/debug" "$work/small/debug"
    ln -s "$lib/libmmsb.so" "$lib/libmmsb.a" "$mmsb" "$(dirname "$mmsb")/mmsb-agent" "$work/target/debug/"
    touch "$work/small/debug/"{libmmsb.so,libmmsb.a,mmsb,mmsb-agent}
    CARGO_TARGET_DIR=$work/target "$root/scripts/install" --debug "$work/prefix" &&
        CARGO_TARGET_DIR=$work/small DESTDIR=$work/stage "$root/scripts/install" --debug /opt/mmsb &&
        [[ -e $work/prefix/lib/libmmsb.so.1 && -e $work/prefix/include/mmsb.h && -x $work/prefix/bin/mmsb ]] &&
        [[ -e $work/stage/opt/mmsb/lib/libmmsb.so ]] &&
        grep -q '^prefix=/opt/mmsb$' "$work/stage/opt/mmsb/lib/pkgconfig/mmsb.pc"
}

with_pkg_config() {
    local example flags
    export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig
    mkdir -p "$work/pc"
    for example in quickstart publisher subscriber; do
        read -ra flags < <(pkg-config --cflags --libs mmsb)
        "$cc" -std=c11 -D_GNU_SOURCE "${warnings[@]}" "$root/examples/c/$example.c" "${flags[@]}" -o "$work/pc/$example"
    done
    [[ $(pkg-config --modversion mmsb) == $(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1) ]]
}

with_static_pkg_config() {
    local flags
    read -ra flags < <(PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig pkg-config --static --cflags --libs mmsb)
    flags=("${flags[@]/#-lmmsb/$work/prefix/lib/libmmsb.a}")
    "$cc" -std=c11 "${warnings[@]}" "$root/examples/c/quickstart.c" "${flags[@]}" -o "$work/pc/quickstart-static" &&
        MMSB_DIR=$segments "$work/pc/quickstart-static"
}

quickstart_runs() {
    MMSB_DIR=$segments LD_LIBRARY_PATH=$work/prefix/lib "$1" | grep -q '^eur/usd: 1.0871 / 1.0873$'
}

with_cmake() {
    mkdir -p "$work/cmake"
    cat >"$work/cmake/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.13)
project(quickstart C)
find_package(mmsb 0.1 REQUIRED)
add_executable(shared $root/examples/c/quickstart.c)
target_link_libraries(shared mmsb::mmsb)
add_executable(fixed $root/examples/c/quickstart.c)
target_link_libraries(fixed mmsb::static)
CMAKE
    CC=$cc cmake -S "$work/cmake" -B "$work/cmake/build" -DCMAKE_PREFIX_PATH="$work/prefix" &&
        cmake --build "$work/cmake/build" &&
        quickstart_runs "$work/cmake/build/shared" && quickstart_runs "$work/cmake/build/fixed" &&
        ! (sed -i 's/mmsb 0.1/mmsb 7.0/' "$work/cmake/CMakeLists.txt" &&
            CC=$cc cmake -S "$work/cmake" -B "$work/cmake/newer" -DCMAKE_PREFIX_PATH="$work/prefix")
}

two_terminals() {
    export MMSB_DIR=$segments LD_LIBRARY_PATH=$work/prefix/lib
    "$work/pc/publisher" quotes 1 0
    timeout 60 "$work/pc/subscriber" quotes 5 >"$work/heard" &
    local subscriber=$!
    "$work/pc/publisher" quotes 100000 20 &
    local publisher=$!
    children+=("$subscriber" "$publisher")
    wait "$subscriber" || return 1
    kill -9 "$publisher"
    wait "$publisher" || true
    cat "$work/heard"
    [[ $(grep -c '^then .* publisher$' "$work/heard") -eq 5 ]] && grep -q '^now ' "$work/heard" &&
        "$work/prefix/bin/mmsb" read quotes quotes/eur-usd
}

uninstalled() {
    "$root/scripts/install" --uninstall "$work/prefix"
    DESTDIR=$work/stage "$root/scripts/install" --uninstall /opt/mmsb
    [[ -z $(find "$work/prefix" "$work/stage" ! -type d) ]]
}

claim "it installs into a prefix, and under DESTDIR" installed
if command -v pkg-config >/dev/null; then
    claim "the examples build with pkg-config" with_pkg_config
    claim "the quickstart runs" quickstart_runs "$work/pc/quickstart"
    claim "the quickstart links statically with pkg-config" with_static_pkg_config
    claim "a subscriber hears of a publisher, which is killed" two_terminals
else
    echo "skipped: no pkg-config"
fi
if command -v cmake >/dev/null; then
    claim "the quickstart builds with CMake, shared and static" with_cmake
else
    echo "skipped: no cmake"
fi
claim "it uninstalls without a trace" uninstalled

if [[ $failed -eq 0 ]]; then
    echo "test result: ok. $passed passed; 0 failed;"
else
    echo "test result: FAILED. $passed passed; $failed failed;"
    exit 1
fi
