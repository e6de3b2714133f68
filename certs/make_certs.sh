#!/bin/sh
# Makes a test authority and what a try-out of kmsgate needs from it. For tests and laptops: certs/README.md tells where
# certificates come from in production.
set -eu
usage() {
    cat <<'U'
usage: certs/make_certs.sh [--out FOLDER] [--days N] [--name NAME]...

Writes into FOLDER (default: the folder of this script), each as NAME.pem and NAME.key, EC P-256:

  ca        the test authority; kept if it is there and has more than N days to live, so that the others can be made anew
  server    what the gateway shows its clients
  client    what a client shows the gateway, where it asks (listen[].tls.client_ca)
  upstream  what the legacy KMS shows the gateway
  gateway   what the gateway shows the legacy KMS (upstream.tls.certificate)

  --days N     how long they are valid (90); the authority ten times as long
  --name NAME  a DNS name or an IP address for server and upstream; default: kms.example.org localhost 127.0.0.1 ::1
U
}
fail() { echo "make_certs.sh: $*" >&2; exit "${code:-1}"; }
wrong() { code=2; fail "$*; --help explains"; }

out=$(cd "$(dirname "$0")" && pwd) days=90 names=
while [ $# -gt 0 ]; do
    case $1 in
    --help) usage; exit 0 ;;
    --out | --days | --name) [ $# -gt 1 ] || wrong "$1 wants a value" ;;
    *) wrong "found \`$1\`, expected --out, --days or --name" ;;
    esac
    case $1 in
    --out) out=$2 ;;
    --days)
        case $2 in '' | *[!0-9]* | 0* | ?????*) wrong "--days: found \`$2\`, expected a number from 1 to 9999" ;; esac
        days=$2 ;;
    --name)
        case $2 in '' | *[!A-Za-z0-9.:*-]*) wrong "--name: found \`$2\`, expected a DNS name or an IP address" ;; esac
        names="$names $2" ;;
    esac
    shift 2
done
command -v openssl >/dev/null || fail "openssl is not installed (Debian: apt-get install openssl)"
mkdir -p "$out" || fail "$out: cannot be made"
[ -w "$out" ] || fail "$out: cannot be written"

san=
for name in ${names:-kms.example.org localhost 127.0.0.1 ::1}; do
    case $name in
    *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) kind=IP ;;
    *) kind=DNS ;;
    esac
    san=$san${san:+,}$kind:$name
done

umask 077
work=$(mktemp -d "$out/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$1.key" 2>"$work/log" || fail "$(cat "$work/log")"; }
# Each file appears whole: whoever watches the folder never reads half of one.
publish() {
    chmod 644 "$work/$1.pem"
    mv "$work/$1.key" "$out/$1.key"
    mv "$work/$1.pem" "$out/$1.pem"
}
make_ca() {
    new_key ca
    openssl req -x509 -new -key "$work/ca.key" -sha256 -days $((days * 10)) -subj "/CN=kmsgate test authority" \
        -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign \
        -out "$work/ca.pem" 2>"$work/log" || fail "$(cat "$work/log")"
    publish ca
}
make_leaf() { # NAME, its subject, extended use, alternative names
    new_key "$1"
    cat >"$work/extensions" <<E
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = $3
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $4
E
    {
        openssl req -new -key "$work/$1.key" -subj "/CN=$2" -out "$work/$1.csr" &&
            openssl x509 -req -in "$work/$1.csr" -CA "$out/ca.pem" -CAkey "$out/ca.key" -sha256 -days "$days" \
                -set_serial "0x$(openssl rand -hex 16 | sed 's/^./1/')" -extfile "$work/extensions" -out "$work/$1.pem"
    } >"$work/log" 2>&1 || fail "$1: $(cat "$work/log")"
    publish "$1"
}

if [ -f "$out/ca.key" ] && [ -f "$out/ca.pem" ] &&
    openssl x509 -in "$out/ca.pem" -noout -checkend $((days * 86400)) >/dev/null 2>&1; then
    echo "the authority $out/ca.pem is kept"
else
    make_ca
fi
make_leaf server "kmsgate" serverAuth "$san"
make_leaf client "a client" clientAuth DNS:client.example.org
make_leaf upstream "legacy KMS" serverAuth "$san"
make_leaf gateway "kmsgate to its upstream" clientAuth DNS:kmsgate.example.org
echo "made in $out: ca, server, client, upstream, gateway; valid for $days days"
