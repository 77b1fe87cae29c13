#!/bin/sh
# The interpreter of a PEX, next to it in the archive: `bin/python`, which runs `app.pex` as one.
# pex.py replaces the next line by: name (of the PEX as its user knows it), version, and scie=yes|no.
# @values@
set -eu
fail() { echo "sparkdeps: $*" >&2; exit 1; }

home=$(cd "${0%/*}/.." && pwd -P)
# What it caches goes next to the unpacked archive: it is of this executor, shared by its sessions, and goes with it.
export PEX_ROOT="${home%/*}/pex" SCIE_BASE="${home%/*}/nce"
# Spark brings pyspark by PYTHONPATH, which a PEX doesn't look at. PEX_INHERIT_PATH would let it, but let in the
# site-packages of the executor's Python as well, and does nothing for a PEX that was built with --venv.
export PEX_INTERPRETER=1 PEX_EXTRA_SYS_PATH="${PYTHONPATH:-}"
# What the executor's user has set up for other PEXes is not of this environment.
unset PEX_MODULE PEX_SCRIPT PEX_PATH PEX_PYTHON PEX_PYTHON_PATH PEX_INHERIT_PATH PEX_VERBOSE SCIE SCIE_BOOT
export PEX_IGNORE_RCFILES=1

[ "$scie" = no ] || exec "$home/app.pex" "$@"
# A version manager's shim may be there and refuse to run.
base=$("python$version" -IS -c 'import sys; print(sys.executable)' 2>/dev/null) ||
    fail "$name brings no interpreter of its own, and no python$version runs from this executor's PATH ($PATH):" \
        "install it on the executors, or give the task a VenvEnvironment or a scie, which bring theirs"
exec "$base" "$home/app.pex" "$@"
