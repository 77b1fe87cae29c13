#!/bin/bash
# Runs on executors. fetch_from_driver spark://HOST:PORT/PATH: writes a file of the driver to stdout.
# It sends a StreamRequest of Spark's transport protocol (org.apache.spark.network.protocol), as executors do, without
# authentication and encryption. This is bash, because an executor may not have Python; Spark itself unpacks archives
# with bash. broadcast/executor.py sends the same request from Python.
set -eu
rest=${1#spark://}
address=${rest%%/*}
path=/${rest#*/}
host=${address%:*}
host=${host#[}
host=${host%]}

number() { # VALUE BYTES: writes a number in big-endian order.
    local hex
    printf -v hex "%0$((2 * $2))x" "$1"
    while [ -n "$hex" ]; do
        # shellcheck disable=SC2059 # the format is the escape sequence of one byte
        printf "\\x${hex:0:2}"
        hex=${hex:2}
    done
}
receive() { # BYTES: writes them as hexadecimal digits. Waits at most 60 seconds for a silent driver.
    local hex
    hex=$(timeout 60 dd bs=1 count="$1" <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \n')
    [ ${#hex} = $((2 * $1)) ] || { echo "the driver closed the connection" >&2; exit 1; }
    printf %s "$hex"
}

exec 3<>"/dev/tcp/$host/${address##*:}"
# The frame: its length, the message type (6: StreamRequest), the length of the stream's name, the name.
{ number $((13 + ${#path})) 8; number 6 1; number ${#path} 4; printf %s "$path"; } >&3
head=$(receive 9)
answer=$(receive $((16#${head:0:16} - 9)))
# Type 7 is a StreamResponse. It ends with the number of bytes that follow.
[ "${head:16}" = 07 ] || { echo "the driver no longer has $path" >&2; exit 1; }
timeout 1800 head -c $((16#${answer: -16})) <&3
