#!/bin/sh
# Runs on executors as Python. Unpacks an environment once per executor, then runs its interpreter.
# launcher.py replaces the next line with assignments: digest, sha256, payload (a file name), megabytes (unpacked),
# interpreter, version, bundled=yes|no (whether the payload contains the interpreter), post_unpack (a script in the
# payload, or empty), scheme and uri (where the payload is if Spark does not bring it, or empty), probe=yes|no (whether
# to fetch it even if it is unpacked), start=session|executor (the directory that it is started in), idle_seconds (when
# to end a daemon that has no workers), max_envs, max_megabytes and max_launchers (what to keep).
# @values@
set -eu
fail() { echo "sparkdeps: $*" >&2; exit 1; }

# This is DIRECTORY/sparkdeps/NAME/bin/python. Workers start in DIRECTORY, which is the session's or, for window
# functions and streams, the executor's: its parent, which is removed with the executor.
launcher=${0%/bin/*}
case $start in
session) executor=.. ;;
executor) executor=. ;;
esac
root=$(cd "$launcher/../../$executor" && pwd -P)
cache=$root/sparkdeps
env_dir=$cache/$digest
work_dir=$cache/.$digest.part.$$

# A stream has a directory of its own, as a session does, with the files of the session that started it. But Spark may
# start its workers in the session's directory, which has no files on executors where the session has run no query.
find_payload() {
    for file in "$payload" $executor/*/"$payload"; do
        if [ -f "$file" ]; then echo "$file"; return; fi
        [ "$probe" = no ] || break
    done
    false
}

# Writes the payload to stdout. URIs may be signed, so they are not logged.
fetch() {
    if brought=$(find_payload); then cat "$brought"; return; fi
    case $scheme in
    file) cat "$uri" ;;
    spark) bash "$launcher/bin/fetch_from_driver" "$uri" ;;
    *)
        if command -v curl >/dev/null; then
            printf 'url = "%s"\n' "$uri" | curl -fsSL --connect-timeout 30 --max-time 1800 -K -
        else
            printf '%s\n' "$uri" | wget -q -T 60 -t 3 -O - -i -
        fi ;;
    esac || { : >"$work_dir/fetch.failed"; return 1; }
}

# Reads all of stdin and writes its sha256.
checksum() {
    if command -v sha256sum >/dev/null; then
        sha256sum
    elif command -v openssl >/dev/null; then
        openssl dgst -sha256 -r
    elif [ -z "$scheme" ]; then
        cat >/dev/null
        echo "$sha256" # The session's client has sent it.
    else
        fail "Could not verify $payload: the executor has neither sha256sum nor openssl. Install one of them there."
    fi
}

disk_full() {
    cause=$(last_lines "$1") # A full disk may also have lost the log.
    fail "Could not unpack $payload in $cache: ${cause:-the disk is full}. Check this executor's disk space."
}
not_writable() { fail "Could not write to $cache. Check its disk space and its permissions."; }
# The last two lines of a file as one, without query strings.
last_lines() { tail -n 2 "$1" | sed -e '$!N' -e 's/\n/; /' -e 's/[?][^ ]*//g' -e 's/[.]$//'; }

# Fails unless `fetch` has written the payload.
verify() {
    [ ! -e "$work_dir/fetch.failed" ] ||
        fail "Could not fetch $payload over $scheme: $(last_lines "$work_dir/fetch.log"). Run the task again."
    read -r found rest <"$work_dir/sha256" || disk_full "$work_dir/sha256.log"
    [ "$found" = "$sha256" ] || fail "$payload was damaged on its way to this executor: its sha256 is $found" \
        "instead of $sha256. Run the task again."
}

make_workdir() {
    find_payload >/dev/null || [ -n "$scheme" ] ||
        fail "$payload is not in $(pwd): the session lost its files. Run the task again."
    rm -rf "$work_dir"
    mkdir "$work_dir" "$work_dir/env.$$" || not_writable
}

# Checks that the payload can be fetched, without keeping it.
probe_fetch() {
    make_workdir
    fetch 2>"$work_dir/fetch.log" | checksum >"$work_dir/sha256" 2>"$work_dir/sha256.log" || :
    verify
    rm -rf "$work_dir"
}

# Reads all of stdin, even if tar fails.
extract() {
    tar "$1" - -C "$work_dir/env.$$" >"$work_dir/tar.log" 2>&1 && : >"$work_dir/extracted"
    cat >/dev/null
}

unpack() {
    # A killed process leaves its work directory, which has the process id in its name.
    for old in "$cache/.$digest".part.*; do
        kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old" || :
    done
    make_workdir
    # The payload is not written to disk; its files are used only if its sha256 is right. stderr goes to files, because
    # Spark reads it only after this script has ended, and a full pipe would block.
    if python3 -IS -c 'import hashlib, zlib' 2>/dev/null; then
        fetch 2>"$work_dir/fetch.log" |
            python3 -IS "$launcher/bin/gunzip_sha256" "$work_dir/sha256" 2>"$work_dir/sha256.log" | extract -xf
    else
        mkfifo "$work_dir/pipe"
        checksum <"$work_dir/pipe" >"$work_dir/sha256" 2>"$work_dir/sha256.log" &
        fetch 2>"$work_dir/fetch.log" | tee "$work_dir/pipe" | extract -xzf
        wait
    fi
    case $(cat "$work_dir/tar.log") in
    *"No space"* | *"annot write"* | *"annot open"* | *"annot mkdir"*) ;;
    *) verify ;;
    esac
    [ -e "$work_dir/extracted" ] || disk_full "$work_dir/tar.log"
    if [ "$bundled" = no ]; then
        base=$("python$version" -c 'import os, sys; print(os.path.realpath(sys._base_executable))') ||
            fail "The environment contains no interpreter, and this executor has no working python$version on PATH" \
                "($PATH). Install it on the executors, or build the environment with bundle_python=True."
        mkdir -p "$work_dir/env.$$/bin"
        ln -sf "$base" "$work_dir/env.$$/$interpreter"
        printf 'home = %s\ninclude-system-site-packages = false\n' "${base%/*}" >"$work_dir/env.$$/pyvenv.cfg"
    fi
    # Writes the final path into files that need it. Afterwards other processes may use the environment.
    if [ -n "$post_unpack" ]; then
        "$work_dir/env.$$/$interpreter" -I -B "$work_dir/env.$$/$post_unpack" "$env_dir" >"$work_dir/post.log" 2>&1 ||
            fail "Could not prepare $payload in $env_dir: $(last_lines "$work_dir/post.log")"
    fi
    # If two processes rename at once, one fails or moves its copy into the other's directory.
    mv "$work_dir/env.$$" "$env_dir" 2>/dev/null || [ -d "$env_dir" ] || not_writable
    rm -rf "$work_dir" "$env_dir/env.$$"
}

# Removes the least recently used environments until the others are within the limits. Keeps those in use.
evict() {
    count=1 total=$megabytes
    for each in $(cd "$cache" && ls -tA 2>/dev/null | sed -n 's/^\.\([0-9a-f]*\)\.used$/\1/p'); do
        [ "$each" != "$digest" ] && [ -d "$cache/$each" ] || continue
        size=$(cat "$cache/.$each.used")
        count=$((count + 1)) total=$((total + ${size:-0}))
        [ "$count" -gt "$max_envs" ] || [ "$total" -gt "$max_megabytes" ] || continue
        if (flock -n -x 7 && mv "$cache/$each" "$work_dir.old") 7>>"$cache/.$each.used" 2>/dev/null; then
            rm -rf "$work_dir.old"
            count=$((count - 1)) total=$((total - ${size:-0}))
        fi
    done
}

# Spark removes the launchers in the directory of a session, but not those in the executor's.
evict_launchers() {
    touch -c "$cache/${launcher##*/}" || :
    (cd "$cache" && ls -t 2>/dev/null | sed -n '/^env-/p' | sed "1,${max_launchers}d" | while read -r old; do rm -rf "$old"; done)
}

# Unpacks a zip file ($1) to a directory ($2). Of two at once, one fails or moves its copy into the other's directory.
unzip() {
    nice -n 19 "$env_dir/$interpreter" -m zipfile -e "$1" "$2.$$" && mv "$2.$$" "$2"
    rm -rf "$2.$$" "$2/${2##*/}.$$"
}

# Replaces the server's pyspark.zip on PYTHONPATH by an unpacked copy with its sha256 in the name. Python would compile
# the modules of a zip again in each session. If anything fails, the zip remains.
use_unpacked_pyspark() {
    path=
    while [ -n "${PYTHONPATH:-}" ]; do
        entry=${PYTHONPATH%%:*}
        case $PYTHONPATH in *:*) PYTHONPATH=${PYTHONPATH#*:} ;; *) PYTHONPATH= ;; esac
        case ${entry##*/} in pyspark.zip | py4j-*.zip)
            if found=$(sha256sum <"$entry"); then
                unpacked=$cache/${entry##*/}-${found%% *}
                if [ -d "$unpacked" ]; then
                    entry=$unpacked
                else
                    # For later sessions: unpacking takes longer than it would save now.
                    unzip "$entry" "$unpacked" >/dev/null 2>&1 9>&- &
                fi
            fi ;;
        esac
        path=$path${path:+:}$entry
    done 2>/dev/null
    PYTHONPATH=$path
}

# Adds those py_files of the session to PYTHONPATH that are not in the directory where Spark has started this, and where
# it looks for them. The copies remain as long as this process, even if Spark removes the directory that they are from.
# The name has the process id.
use_py_files() {
    for old in "$cache"/.files.*; do
        kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old"
    done
    files=$cache/.files.$$ path=
    rm -rf "$files"
    for file in $executor/*/"$launcher"/../../*; do
        case $file in *.py | *.zip | *.egg | *.jar) ;; *) continue ;; esac
        name=${file##*/}
        [ -f "$file" ] && [ ! -e "$name" ] && [ ! -e "$files/$name" ] || continue
        mkdir -p "$files" && cp "$file" "$files" || not_writable
        case $name in *.py) ;; *) path=$path:$files/$name ;; esac
    done
    [ -d "$files" ] || return 0
    PYTHONPATH=$files$path${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
}

# The date of this file is when the environment was last used, and its content is the size. All processes that use the
# environment hold a shared lock on it. Without flock, nothing is ever removed.
used=$cache/.$digest.used
{ mkdir -p "$cache" && touch "$used"; } || not_writable
exec 9>>"$used"
flock -s 9 2>/dev/null || :
trap 'rm -rf "$work_dir"' EXIT
if [ ! -d "$env_dir" ]; then
    # One process unpacks at a time. Without flock several may, which only costs time.
    exec 8>>"$cache/.$digest.lock"
    flock -w 600 -x 8 2>/dev/null || :
    if [ ! -d "$env_dir" ]; then
        unpack
        echo "$megabytes" >"$used"
        evict
    fi
    exec 8>&-
elif [ "$probe" = yes ]; then
    probe_fetch
fi
evict_launchers
use_py_files
[ -z "${PYTHONPATH:-}" ] || use_unpacked_pyspark
# Packages in ~/.local of the executor's user are not part of the environment.
export PYTHONNOUSERSITE=1
# launcher.py replaces the next line with the variables of the environment.
# @exports@
case "${1:-} ${2:-}" in
"-m pyspark.daemon") shift 2 && set -- "$launcher/bin/daemon" "$idle_seconds" "$@" ;;
esac
exec "$env_dir/$interpreter" "$@"
