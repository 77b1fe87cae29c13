#!/bin/sh
# Runs on executors: `bin/python` of an archive with a PEX, which runs `app.pex` as a Python interpreter.
# pex/build.py replaces the next line by assignments: name (file name of the PEX), version, and scie=yes|no.
# @values@
set -eu
fail() { echo "sparkdeps: $*" >&2; exit 1; }

home=$(cd "${0%/*}/.." && pwd -P)
# Its caches are written next to the unpacked archive. They are shared by the sessions of this executor and removed
# with the archive.
export PEX_ROOT="${home%/*}/pex" SCIE_BASE="${home%/*}/nce"
# Spark provides pyspark by PYTHONPATH, which a PEX ignores. PEX_INHERIT_PATH would also add the site-packages of the
# executor's Python, and has no effect on a PEX that was built with --venv.
export PEX_INTERPRETER=1 PEX_EXTRA_SYS_PATH="${PYTHONPATH:-}"
# Settings of the executor's user for other PEXes must not affect this one.
unset PEX_MODULE PEX_SCRIPT PEX_PATH PEX_PYTHON PEX_PYTHON_PATH PEX_INHERIT_PATH PEX_VERBOSE SCIE SCIE_BOOT
export PEX_IGNORE_RCFILES=1

[ "$scie" = no ] || exec "$home/app.pex" "$@"
# A shim of a version manager may exist, but refuse to run.
base=$("python$version" -IS -c 'import sys; print(sys.executable)' 2>/dev/null) ||
    fail "$name has no interpreter, and no python$version works on this executor's PATH ($PATH). Install it on the" \
        "executors, or use a VenvEnvironment or a scie, which include an interpreter."
exec "$base" "$home/app.pex" "$@"
