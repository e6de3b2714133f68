#!/bin/sh
# Once, before anything of compose.fleet.yaml starts: all its secrets and certificates, each service's in a volume of its
# own, so that none holds what another one needs. What is there is kept.
set -eu
[ ! -e /setup/gate/made ] || exit 0
umask 077
random() { openssl rand -hex 32; }
hash() { printf %s "$1" | openssl dgst -sha256 -r | cut -c 1-64; }

# One authority for all. Its key is gone when this ends.
work=$(mktemp -d)
certificate() { # FOLDER, the names of who shows it
    folder=/setup/$1
    shift
    for name in "$@"; do
        shift
        set -- "$@" --name "$name"
    done
    make_certs.sh --out "$work" "$@"
    cp "$work/ca.pem" "$work/server.pem" "$work/server.key" "$folder/"
}
certificate gate kms.example.org localhost gateway-1 gateway-2 gateway-3
certificate balancer kms.example.org
certificate redis redis-1 redis-2 sentinel-1 sentinel-2 sentinel-3
certificate postgres postgres
cat /setup/balancer/server.pem /setup/balancer/server.key >/setup/balancer/both.pem
cp "$work/ca.pem" /setup/operator/
cp "$work/ca.pem" /setup/handset/
rm -rf "$work"

# The gateways', all alike. The operator has the master key, too: what he imports is sealed under it.
for name in master.key replay.secret replay.password admin.token; do random >/setup/gate/$name; done
cp /setup/gate/master.key /setup/operator/

# Redis: its users. The gateways' rights are those of docker/README.md, the others' those of Redis' documentation.
for name in replica sentinel; do random >/setup/redis/$name.password; done
gate=$(hash "$(cat /setup/gate/replay.password)")
replica=$(hash "$(cat /setup/redis/replica.password)")
sentinel=$(hash "$(cat /setup/redis/sentinel.password)")
for_gateways="~{kmsgate}:* +fcall +function|load +info +time +get +set +zadd +zcard +zrem +zremrangebyscore +zscore"
for_gateways="$for_gateways +pexpireat +wait"
for_sentinels="allchannels +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info"
for_sentinels="$for_sentinels +client|setname +client|kill +script|kill"
cat >/setup/redis/users.acl <<U
user default off
user kmsgate on #$gate $for_gateways
user replica on #$replica +psync +replconf +ping
user sentinel on #$sentinel $for_sentinels
U
cat >/setup/redis/sentinel_users.acl <<U
user default off
user kmsgate on #$gate +sentinel|get-master-addr-by-name
user sentinel on #$sentinel allchannels +ping +publish +client|setname +sentinel|is-master-down-by-addr
U

# PostgreSQL: who makes the tables, and who writes to them.
for role in operator gateway; do
    random >/setup/postgres/$role.password
    for folder in operator gate; do
        [ "$folder" = gate ] && [ "$role" = operator ] ||
            echo "postgres:5432:kms:kms_$role:$(cat /setup/postgres/$role.password)" >>/setup/$folder/pgpass
    done
done

# Two handsets.
for name in alice bob; do
    for type in ink trk; do
        key=$(random)
        printf '{"user":"sip:%s@example.org","type":"%s","id":"%s.1.%s","key":"%s"}\n' $name $type $type $name "$key"
    done >/setup/handset/$name.jsonl
    cat /setup/handset/$name.jsonl >>/setup/operator/keys.jsonl
done
touch /setup/gate/made
