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

# Writes the payload, from wherever it is to be had. Addresses may be signed, and are not shown.
obtain() {
    if [ -f "$payload" ]; then
        cat "$payload"
        return
    fi
    case $scheme in
    file) cat "$source" ;;
    spark) bash "${0%/*}/pull" "$source" ;;
    *)
        if command -v curl >/dev/null; then
            printf 'url = "%s"\n' "$source" | curl -fsSL --connect-timeout 30 --max-time 1800 -K -
        else
            printf '%s\n' "$source" | wget -q -T 60 -t 3 -O - -i -
        fi ;;
    esac || { : >"$part/cut"; return 1; }
}

# Reads all, and writes its sha256.
sum() {
    if command -v sha256sum >/dev/null; then
        sha256sum
    elif command -v openssl >/dev/null; then
        openssl dgst -sha256 -r
    elif [ -z "$scheme" ]; then
        cat >/dev/null
        echo "$sha256" # sent by this session's own client
    else
        fail "$payload can't be checked here: install sha256sum (coreutils) or openssl on the executors"
    fi
}

full() { fail "$payload can't be unpacked in $cache: is the disk full? $(last_words "$1")"; }
last_words() { sed 's/[?][^ ]*//g' "$1" | tail -n 2; }

# Fails unless what `obtain` gave was the payload.
verify() {
    [ ! -e "$part/cut" ] || fail "$payload was not had by $scheme: $(last_words "$part/obtain")"
    read -r found rest <"$part/sum" || full "$part/sums"
    [ "$found" = "$sha256" ] || fail "$payload was damaged on its way to this executor (its sha256 is" \
        "$found, not $sha256): run this again in a new session"
}

room() {
    [ -f "$payload" ] || [ -n "$scheme" ] ||
        fail "$payload is not in $(pwd): the session lost its files; run this again in a new session"
    rm -rf "$part"
    mkdir "$part" "$part/env.$$" || fail "can't write to $cache: is the disk full, or not ours?"
}

# Whether the payload can be had, without keeping it.
prove() {
    room
    obtain 2>"$part/obtain" | sum >"$part/sum" 2>"$part/sums" || :
    verify
}

# Reads all, whatever becomes of it.
extract() {
    tar "$1" - -C "$part/env.$$" >"$part/tar" 2>&1 && : >"$part/whole"
    cat >/dev/null
}

unpack() {
    # Whoever is killed leaves such a directory, named by its process, and nobody else's rename makes it whole.
    for old in "$cache/.$digest".part.*; do
        kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old" || :
    done
    room
    # Nothing is written but what is unpacked; it counts once the sum of all is right. Spark reads what is said here only
    # once this script has ended, and a full pipe would keep it from that.
    if python3 -IS -c 'import hashlib, zlib' 2>/dev/null; then
        obtain 2>"$part/obtain" | python3 -IS "${0%/*}/inflate" "$part/sum" 2>"$part/sums" | extract -xf
    else
        mkfifo "$part/pipe"
        sum <"$part/pipe" >"$part/sum" 2>"$part/sums" &
        obtain 2>"$part/obtain" | tee "$part/pipe" | extract -xzf
        wait
    fi
    case $(cat "$part/tar") in *"No space"* | *"annot write"* | *"annot open"* | *"annot mkdir"*) ;; *) verify ;; esac
    [ -e "$part/whole" ] || full "$part/tar"
    if [ "$bundled" = no ]; then
        base=$("python$version" -c 'import os, sys; print(os.path.realpath(sys._base_executable))') ||
            fail "this environment has no interpreter of its own, and no python$version runs from this executor's" \
                "PATH ($PATH): install it on the executors, or build the environment with bundle_python=True"
        mkdir -p "$part/env.$$/bin"
        ln -sf "$base" "$part/env.$$/$interpreter"
        printf 'home = %s\ninclude-system-site-packages = false\n' "${base%/*}" >"$part/env.$$/pyvenv.cfg"
    fi
    # Files that name the place that they are at get the one of after the rename, since others may use them from then on.
    if [ -n "$finish" ]; then
        said=$("$part/env.$$/$interpreter" -I -B "$part/env.$$/$finish" "$home" 2>&1) ||
            fail "$payload can't be made ready for $home: $(printf '%s\n' "$said" | tail -n 2)"
    fi
    # Two workers at once: one rename wins. The other fails, or lands inside the winner's directory.
    mv "$part/env.$$" "$home" 2>/dev/null || [ -d "$home" ] || fail "can't rename $part/env.$$ to $home"
    rm -rf "$part" "$home/env.$$"
}

# Removes what was unpacked and is used by nobody, the longest unused first, until the rest is within bounds.
evict() {
    count=1 total=$megabytes
    for each in $(cd "$cache" && ls -tA | sed -n 's/^\.\([0-9a-f]*\)\.used$/\1/p'); do
        [ "$each" != "$digest" ] && [ -d "$cache/$each" ] || continue
        size=$(cat "$cache/.$each.used")
        count=$((count + 1)) total=$((total + ${size:-0}))
        [ "$count" -gt "$most" ] || [ "$total" -gt "$most_megabytes" ] || continue
        if (flock -n -x 7 && mv "$cache/$each" "$part.old") 7>>"$cache/.$each.used" 2>/dev/null; then
            rm -rf "$part.old"
            count=$((count - 1)) total=$((total - ${size:-0}))
        fi
    done
}

# From a zip file to a directory; of two at once, one rename wins, and the other fails or lands inside.
copy() {
    nice -n 19 "$home/$interpreter" -m zipfile -e "$1" "$2.$$" && mv "$2.$$" "$2"
    rm -rf "$2.$$" "$2/${2##*/}.$$"
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
                if [ -d "$copy" ]; then
                    entry=$copy
                else
                    # For those that come later: it takes longer than it would save now.
                    copy "$entry" "$copy" >/dev/null 2>&1 9>&- &
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
trap 'rm -rf "$part"' EXIT
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
    prove
    rm -rf "$part"
fi
[ -z "${PYTHONPATH:-}" ] || quicken
# What the executor's user has in ~/.local is not of this environment.
export PYTHONNOUSERSITE=1
exec "$home/$interpreter" "$@"
