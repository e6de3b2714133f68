#!/bin/sh
# One engine of compose.fleet.yaml, in the foreground. /etc/fleet has its settings, /run/fleet its secrets, both
# read-only; /var/lib/engine is what it keeps.
#
#     engine.sh redis NAME [PRIMARY]    PRIMARY: whose replica it is at its very first start; later, what it was last
#     engine.sh sentinel NAME
#     engine.sh postgres
#     engine.sh haproxy
set -eu
umask 077
settings=/etc/fleet secrets=/run/fleet
cd /var/lib/engine

# Redis and its Sentinels write their configuration anew when roles change: each has a copy of its own, made once.
once() { # FILE, from standard input
    [ -s "$1" ] || { cat >"$1.new" && mv "$1.new" "$1"; }
}

case $1 in
redis)
    {
        cat $settings/redis.conf
        echo "replica-announce-ip $2"
        echo "masteruser replica"
        echo "masterauth $(cat $secrets/replica.password)"
        [ $# -lt 3 ] || echo "replicaof $3 6379"
    } | once redis.conf
    exec redis-server ./redis.conf
    ;;
sentinel)
    {
        cat $settings/sentinel.conf
        echo "sentinel announce-ip $2"
        echo "sentinel auth-user kms sentinel"
        echo "sentinel auth-pass kms $(cat $secrets/sentinel.password)"
        echo "sentinel sentinel-user sentinel"
        echo "sentinel sentinel-pass $(cat $secrets/sentinel.password)"
    } | once sentinel.conf
    exec redis-sentinel ./sentinel.conf
    ;;
postgres)
    PATH=/usr/lib/postgresql/15/bin:$PATH
    if [ ! -e data/made ]; then
        rm -rf data
        initdb -D data -U postgres -E UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=reject
        pg_ctl -D data -w -l first.log -o "-c listen_addresses= -c unix_socket_directories=/tmp" start
        psql -h /tmp -U postgres -qX -v ON_ERROR_STOP=1 -f $settings/roles.sql
        pg_ctl -D data -w -m fast stop
        touch data/made
    fi
    exec postgres -D data -c unix_socket_directories=/tmp -c listen_addresses='*' -c hba_file=$settings/pg_hba.conf \
        -c ssl=on -c ssl_cert_file=$secrets/server.pem -c ssl_key_file=$secrets/server.key
    ;;
haproxy)
    exec haproxy -W -db -f $settings/haproxy.cfg
    ;;
*)
    echo "engine.sh: found \`$1\`, expected redis, sentinel, postgres or haproxy" >&2
    exit 2
    ;;
esac
