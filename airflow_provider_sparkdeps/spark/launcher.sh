#!/bin/sh
# The interpreter that executors run: has the payload unpacked once per executor, then becomes the real one.
# launcher.py replaces the next line by: digest, sha256, payload, megabytes (once unpacked), interpreter, version,
# bundled=yes|no, finish (a script of the payload's, or nothing), scheme and source (where the payload is if Spark
# doesn't bring it, or nothing), prove=yes|no (whether it can be had from there), most (environments to keep) and
# most_megabytes.
# @values@
set -eu
fail() { echo "sparkdeps: $*" >&2; exit 1; }

# Workers start in the session's own directory; the one above it belongs to the executor, and goes with it.
cache=$(cd .. && pwd -P)/sparkdeps
home=$cache/$digest
part=$cache/.$digest.part.$$

# Sets `file`, from wherever the payload is to be had. Addresses may be signed, and are not shown.
obtain() {
    file=$payload
    [ ! -f "$payload" ] || return 0
    case $scheme in
    '') fail "$payload is not in $(pwd): the session lost its files; run this again in a new session" ;;
    file)
        file=$source
        [ -r "$file" ] || fail "$payload was not had from $file: this executor can't read it"
        return 0 ;;
    esac
    file=$cache/.$digest.part.$$.payload
    case $scheme in
    spark) said=$(bash "${0%/*}/pull" "$source" "$file" 2>&1) ;;
    *)
        if command -v curl >/dev/null; then
            said=$(printf 'url = "%s"\n' "$source" |
                curl -fsSL --retry 2 --connect-timeout 30 --max-time 1800 -o "$file" -K - 2>&1)
        else
            said=$(printf '%s\n' "$source" | wget -q -T 60 -t 3 -O "$file" -i - 2>&1)
        fi ;;
    esac || fail "$payload was not had by $scheme: $(printf '%s\n' "$said" | sed 's/[?].*//' | tail -n 1)"
}

verify() {
    if command -v sha256sum >/dev/null; then
        found=$(sha256sum <"$file")
    elif command -v openssl >/dev/null; then
        found=$(openssl dgst -sha256 -r <"$file")
    elif [ "$file" = "$payload" ] && [ -z "$scheme" ]; then
        return 0 # sent by this session's own client
    else
        fail "$payload can't be checked here: install sha256sum (coreutils) or openssl on the executors"
    fi
    [ "${found%% *}" = "$sha256" ] || fail "$payload was damaged on its way to this executor (its sha256 is" \
        "${found%% *}, not $sha256): run this again in a new session"
}

unpack() {
    # Whoever is killed leaves such a directory, named by its process, and nobody else's rename makes it whole.
    for old in "$cache/.$digest".part.*; do
        owner=${old#"$cache/.$digest.part."}
        kill -0 "${owner%%.*}" 2>/dev/null || rm -rf "$old" || :
    done
    rm -rf "$part"
    obtain
    verify
    # Spark reads what is said here only once this script has ended, and a full pipe would keep it from that.
    said=$(mkdir "$part" 2>&1 && tar -xzf "$file" -C "$part" 2>&1) ||
        fail "$payload can't be unpacked in $cache: is the disk full? $(printf '%s\n' "$said" | tail -n 2)"
    rm -f "$part.payload"
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

# Removes what was unpacked and is used by nobody, the longest unused first, until the rest is within bounds.
evict() {
    count=1 sum=$megabytes
    for each in $(cd "$cache" && ls -tA | sed -n 's/^\.\([0-9a-f]*\)\.used$/\1/p'); do
        [ "$each" != "$digest" ] && [ -d "$cache/$each" ] || continue
        size=$(cat "$cache/.$each.used")
        count=$((count + 1)) sum=$((sum + ${size:-0}))
        [ "$count" -gt "$most" ] || [ "$sum" -gt "$most_megabytes" ] || continue
        if (flock -n -x 7 && mv "$cache/$each" "$part.old") 7>>"$cache/.$each.used" 2>/dev/null; then
            rm -rf "$part.old"
            count=$((count - 1)) sum=$((sum - ${size:-0}))
        fi
    done
}

# Puts an unpacked copy of the server's own pyspark in the place of its zip, from which Python would compile all that
# it imports, in each session again. Its content is its name; whatever goes wrong, the zip remains.
quicken() {
    path=
    while [ -n "${PYTHONPATH:-}" ]; do
        entry=${PYTHONPATH%%:*}
        case $PYTHONPATH in *:*) PYTHONPATH=${PYTHONPATH#*:} ;; *) PYTHONPATH= ;; esac
        case ${entry##*/} in pyspark.zip | py4j-*.zip)
            if found=$(sha256sum <"$entry"); then
                copy=$cache/${entry##*/}-${found%% *}
                if [ -d "$copy" ] || {
                    "$home/$interpreter" -m zipfile -e "$entry" "$copy.$$" && mv "$copy.$$" "$copy" || [ -d "$copy" ]
                }; then
                    rm -rf "$copy.$$" "$copy/${copy##*/}.$$"
                    entry=$copy
                fi
            fi ;;
        esac
        path=$path${path:+:}$entry
    done 2>/dev/null
    PYTHONPATH=$path
}

# Says by its date when this environment was used last, by its content how large it is, and by a lock that is shared by
# all who run, that it is in use; without flock, nothing is ever removed.
used=$cache/.$digest.used
{ mkdir -p "$cache" && touch "$used"; } || fail "can't write to $cache: is the disk full, or not ours?"
exec 9>>"$used"
flock -s 9 2>/dev/null || :
trap 'rm -rf "$part" "$part.payload"' EXIT
if [ ! -d "$home" ]; then
    # One at a time where flock exists; without it they unpack side by side, which costs time only.
    exec 8>>"$cache/.$digest.lock"
    flock -w 600 -x 8 2>/dev/null || :
    if [ ! -d "$home" ]; then
        unpack
        echo "$megabytes" >"$used"
        evict
    fi
    exec 8>&-
elif [ "$prove" = yes ]; then
    obtain
    verify
    rm -f "$part.payload"
fi
[ -z "${PYTHONPATH:-}" ] || quicken
# What the executor's user has in ~/.local is not of this environment.
export PYTHONNOUSERSITE=1
exec "$home/$interpreter" "$@"
