#!/bin/sh
# Runs julia so that exceptions work: julia.sh ARGUMENTS...
#
# Debian's Julia 1.5.3 was built beside libunwind 1.3.2. With the libunwind 1.6 of later Debian releases every exception ends it by a
# segmentation fault. Then this gives it the old library, from MMSB_LIBUNWIND (a directory with libunwind.so.8), or from a private copy
# that is made once with apt-get download (bullseye has to be among the sources); nothing is installed. JULIA names another julia.
set -eu

julia=${JULIA:-julia}
command -v "$julia" >/dev/null || { echo "julia.sh: there is no $julia" >&2; exit 127; }

works() {
    "$julia" --startup-file=no --history-file=no -e 'f(x) = sqrt(x); try; f(-1.0); catch; end' >/dev/null 2>&1
}

if ! works; then
    found=${MMSB_LIBUNWIND:-}
    if [ -z "$found" ]; then
        cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmsb/libunwind-1.3.2
        found=$cache/usr/lib/x86_64-linux-gnu
        if [ ! -e "$found/libunwind.so.8" ]; then
            work=$(mktemp -d)
            trap 'rm -rf "$work"' EXIT
            (cd "$work" && apt-get download 'libunwind8=1.3.2*' >/dev/null 2>&1 && dpkg -x libunwind8_*.deb x) || {
                echo "julia.sh: this julia dies at every exception, as libunwind8 is newer than it knows;" \
                    "put libunwind.so.8 of version 1.3.2 (bullseye's) into a directory and name it in MMSB_LIBUNWIND" >&2
                exit 1
            }
            mkdir -p "$(dirname "$cache")"
            # Whoever else does the same at this moment makes the same.
            mv -T "$work/x" "$cache" 2>/dev/null || [ -e "$found/libunwind.so.8" ]
            rm -rf "$work"
            trap - EXIT
        fi
    fi
    LD_LIBRARY_PATH=$found${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    works || { echo "julia.sh: julia dies at every exception, also with the libunwind in $found" >&2; exit 1; }
fi
exec "$julia" "$@"
