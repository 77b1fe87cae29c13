#!/bin/sh
# The interpreter that executors run: unpacks the payload once per executor, then becomes the real one.
# attach.py replaces the next line by: digest, sha256, payload, version, and bundled=yes|no.
# @values@
set -eu
fail() { echo "sparkdeps: $*" >&2; exit 1; }

# Workers start in the session's own directory; the one above it belongs to the executor, and goes with it.
cache=$(cd .. && pwd -P)/sparkdeps
home=$cache/$digest

unpack() {
    [ -f "$payload" ] || fail "$payload is not in $(pwd): the session lost its files; open a new one"
    if command -v sha256sum >/dev/null; then
        found=$(sha256sum <"$payload")
        [ "${found%% *}" = "$sha256" ] || fail "$payload is damaged (sha256 ${found%% *}, not $sha256): attach it again"
    fi
    part=$(mktemp -d "$cache/.$digest.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    gzip -dc <"$payload" | tar -xf - -C "$part" || fail "$payload can't be unpacked below $cache: is the disk full?"
    if [ "$bundled" = no ]; then
        base=$(command -v "python$version") ||
            fail "this environment has no interpreter of its own, and there is no python$version on PATH ($PATH): " \
                "install it on the executors, or build with bundle_python=True"
        base=$("$base" -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
        mkdir -p "$part/bin"
        ln -sf "$base" "$part/bin/python"
        printf 'home = %s\ninclude-system-site-packages = false\n' "${base%/*}" >"$part/pyvenv.cfg"
    fi
    # Two workers at once: one rename wins; the other lands inside the winner's directory and is removed there.
    mv "$part" "$home" 2>/dev/null || [ -x "$home/bin/python" ] || fail "can't rename $part to $home"
    rm -rf "$home/${part##*/}"
    trap - EXIT
}

if [ ! -x "$home/bin/python" ]; then
    mkdir -p "$cache"
    # One at a time where flock exists; without it they unpack side by side, which costs time only.
    if command -v flock >/dev/null; then
        ( flock 9; [ -x "$home/bin/python" ] || unpack ) 9>"$cache/.$digest.lock"
    else
        unpack
    fi
fi
exec "$home/bin/python" "$@"
