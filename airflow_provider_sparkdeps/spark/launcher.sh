#!/bin/sh
# The interpreter that executors run: unpacks the payload once per executor, then becomes the real one.
# attach.py replaces the next line by: digest, sha256, payload, interpreter, version, bundled=yes|no, and
# finish: a script of the payload's, or nothing.
# @values@
set -eu
fail() { echo "sparkdeps: $*" >&2; exit 1; }

# Workers start in the session's own directory; the one above it belongs to the executor, and goes with it.
cache=$(cd .. && pwd -P)/sparkdeps
home=$cache/$digest
part=$cache/.$digest.part.$$

unpack() {
    [ -f "$payload" ] || fail "$payload is not in $(pwd): the session lost its files; run this again in a new session"
    if command -v sha256sum >/dev/null; then
        found=$(sha256sum <"$payload")
        [ "${found%% *}" = "$sha256" ] || fail "$payload was damaged on its way to this executor (its sha256 is" \
            "${found%% *}, not $sha256): run this again in a new session"
    fi
    # Whoever is killed leaves such a directory, named by its process, and nobody else's rename makes it whole.
    for old in "$cache/.$digest".part.*; do
        kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old" || :
    done
    trap 'rm -rf "$part"' EXIT
    rm -rf "$part"
    # Spark reads what is said here only once this script has ended, and a full pipe would keep it from that.
    said=$(mkdir "$part" 2>&1 && tar -xzf "$payload" -C "$part" 2>&1) ||
        fail "$payload can't be unpacked in $cache: is the disk full? $(printf '%s\n' "$said" | tail -n 2)"
    if [ "$bundled" = no ]; then
        base=$("python$version" -c 'import os, sys; print(os.path.realpath(sys._base_executable))') ||
            fail "this environment has no interpreter of its own, and no python$version runs from this executor's" \
                "PATH ($PATH): install it on the executors, or build the environment with bundle_python=True"
        mkdir -p "$part/bin"
        ln -sf "$base" "$part/$interpreter"
        printf 'home = %s\ninclude-system-site-packages = false\n' "${base%/*}" >"$part/pyvenv.cfg"
    fi
    # Files that name the place that they are at get the one of after the rename, since others may use them from then on.
    if [ -n "$finish" ]; then
        said=$("$part/$interpreter" -I -B "$part/$finish" "$home" 2>&1) ||
            fail "$payload can't be made ready for $home: $(printf '%s\n' "$said" | tail -n 2)"
    fi
    # Two workers at once: one rename wins. The other fails, or lands inside the winner's directory.
    mv "$part" "$home" 2>/dev/null || [ -d "$home" ] || fail "can't rename $part to $home"
    rm -rf "$part" "$home/${part##*/}"
}

if [ ! -d "$home" ]; then
    lock=$cache/.$digest.lock
    { mkdir -p "$cache" && touch "$lock"; } || fail "can't write to $cache: is the disk full, or not ours?"
    # One at a time where flock exists; without it they unpack side by side, which costs time only.
    exec 9>"$lock"
    flock -w 120 9 2>/dev/null || :
    [ -d "$home" ] || unpack
    exec 9>&-
fi
# What the executor's user has in ~/.local is not of this environment.
export PYTHONNOUSERSITE=1
exec "$home/$interpreter" "$@"
