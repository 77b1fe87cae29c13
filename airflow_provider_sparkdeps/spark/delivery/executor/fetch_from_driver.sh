#!/bin/bash
# pull spark://HOST:PORT/PATH: write a file of the driver's as executors read it, by a StreamRequest of Spark's transport
# protocol (org.apache.spark.network.protocol), without authentication and encryption. Bash is
# there: Spark itself unpacks archives by it.
set -eu
rest=${1#spark://}
address=${rest%%/*}
path=/${rest#*/}
host=${address%:*}
host=${host#[}
host=${host%]}

number() { # VALUE BYTES, most significant byte first
    local hex
    printf -v hex "%0$((2 * $2))x" "$1"
    while [ -n "$hex" ]; do
        printf "\\x${hex:0:2}"
        hex=${hex:2}
    done
}
receive() { # BYTES, as hexadecimal digits; the time is a bound for a driver that takes the connection and is silent
    local hex
    hex=$(timeout 60 dd bs=1 count="$1" <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \n')
    [ ${#hex} = $((2 * $1)) ] || { echo "the driver closed the connection" >&2; exit 1; }
    printf %s "$hex"
}

exec 3<>"/dev/tcp/$host/${address##*:}"
# A frame: its own length, the type of message (6: StreamRequest), and the name of the stream after its length.
{ number $((13 + ${#path})) 8; number 6 1; number ${#path} 4; printf %s "$path"; } >&3
head=$(receive 9)
answer=$(receive $((16#${head:0:16} - 9)))
# 7: StreamResponse, which ends in the number of bytes that follow.
[ "${head:16}" = 07 ] || { echo "the driver does not have $path any more: run this again in a new session" >&2; exit 1; }
size=$((16#${answer: -16}))
timeout 1800 head -c "$size" <&3
