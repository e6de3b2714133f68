#!/bin/sh
# Once, before the gateway starts: a master key, certificates of a test authority, and one handset's two keys, which the
# gateway and the handset share. What is there is kept.
set -eu
gate=/setup/gate state=/var/lib/kmsgate handset=/setup/handset
user=sip:alice@example.org
random() { od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'; }
umask 077

[ -s $gate/master.key ] || random >$gate/master.key
if [ ! -s $gate/server.pem ] || ! openssl x509 -in $gate/server.pem -noout -checkend 86400 >/dev/null; then
    work=$(mktemp -d)
    make_certs.sh --out "$work" --name "$1" --name localhost
    cp "$work/server.key" "$work/server.pem" $gate/
    cp "$work/ca.pem" $handset/
    rm -rf "$work" # and with it the authority's key
fi
if [ ! -s $handset/keys.jsonl ]; then
    {
        printf '{"user":"%s","type":"ink","id":"ink.1.alice","key":"%s"}\n' $user "$(random)"
        printf '{"user":"%s","type":"trk","id":"trk.1.alice","key":"%s"}\n' $user "$(random)"
    } >$handset/keys.jsonl.new
    mv $handset/keys.jsonl.new $handset/keys.jsonl
fi
[ -w $state ] || { echo "setup.sh: $state cannot be written: expected a volume of this user's" >&2; exit 1; }
KMSGATE_MASTER_KEY_FILE=$gate/master.key kmsgate keys import --config /etc/kmsgate/gateway.yaml $handset/keys.jsonl
