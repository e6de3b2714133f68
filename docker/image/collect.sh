#!/bin/sh
# While the image is built: copies a program, the libraries that it loads and what those need at run time into a folder
# that becomes the image's root, and writes down which Debian packages they come from.
#
#     collect.sh PROGRAM ROOT VERSION SOURCE_DATE_EPOCH
set -eu
program=$1 root=$2 version=$3 epoch=$4
name=$(basename "$program")
user=65532

ldd "$program" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' >/tmp/libraries
! ldd "$program" | grep 'not found' || { echo "collect.sh: $program lacks libraries" >&2; exit 1; }
[ -s /tmp/libraries ] || { echo "collect.sh: $program loads no libraries: found nothing to copy" >&2; exit 1; }

mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp" "$root/var/lib/$name" "$root/var/lib/dpkg/status.d" \
    "$root/usr/share/doc/$name" "$root/usr/lib" "$root/usr/lib64"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
chmod 1777 "$root/tmp"
chown $user:$user "$root/var/lib/$name"
cp "$program" "$root/usr/bin/"
while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done </tmp/libraries
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp /etc/os-release "$root/etc/os-release"
# the zones that rules may name (assume_zone), without their doubles
mkdir -p "$root/usr/share/zoneinfo"
(cd /usr/share/zoneinfo && tar -c --exclude=./posix --exclude=./right .) | tar -x -C "$root/usr/share/zoneinfo"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0::/:/sbin/nologin\n%s:x:%s:%s::/var/lib/%s:/sbin/nologin\n' "$name" $user $user "$name" >"$root/etc/passwd"
printf 'root:x:0:\n%s:x:%s:\n' "$name" $user >"$root/etc/group"

# The packages, as scanners look for them, with their licences.
{
    while read -r library; do
        # dpkg knows some under /lib, some under /usr/lib, whichever way the links go
        dpkg-query -S "$library" "$(readlink -f "$library")" "${library#/usr}" 2>/dev/null | sed -n '1s/:.*//p'
    done </tmp/libraries
    echo ca-certificates
    echo tzdata
    echo base-files
} | sort -u >/tmp/packages
[ "$(wc -l </tmp/packages)" -gt 5 ] || { echo "collect.sh: dpkg knows too few of the libraries" >&2; exit 1; }
while read -r package; do
    dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
    mkdir -p "$root/usr/share/doc/$package"
    [ ! -f "/usr/share/doc/$package/copyright" ] || cp -L "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/"
done </tmp/packages

# The bill of materials: SPDX 2.3.
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
digest=$(sha256sum "$program" | cut -d ' ' -f 1)
{
    cat <<J
{
  "spdxVersion": "SPDX-2.3",
  "dataLicense": "CC0-1.0",
  "SPDXID": "SPDXRef-DOCUMENT",
  "name": "$name-$version",
  "documentNamespace": "urn:kmsgate:sbom:$name:$version:$digest",
  "creationInfo": { "created": "$created", "creators": ["Tool: docker/image/collect.sh"] },
  "packages": [
    { "SPDXID": "SPDXRef-$name", "name": "$name", "versionInfo": "$version", "downloadLocation": "NOASSERTION",
      "filesAnalyzed": false, "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION",
      "primaryPackagePurpose": "APPLICATION", "checksums": [{ "algorithm": "SHA256", "checksumValue": "$digest" }] }
J
    while read -r package; do
        dpkg-query -W -f '${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\n' "$package"
    done </tmp/packages | while read -r package v arch source source_v; do
        escaped=$(printf %s "$v" | sed 's/+/%2B/g; s/:/%3A/g')
        cat <<J
    ,{ "SPDXID": "SPDXRef-deb-$(printf %s "$package" | tr '+_' '..')", "name": "$package", "versionInfo": "$v",
      "supplier": "Organization: Debian", "sourceInfo": "built from $source $source_v", "downloadLocation": "NOASSERTION",
      "filesAnalyzed": false, "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION",
      "primaryPackagePurpose": "LIBRARY", "externalRefs": [{ "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl", "referenceLocator": "pkg:deb/debian/$package@$escaped?arch=$arch" }] }
J
    done
    cat <<J
  ],
  "relationships": [
    { "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-$name" }
J
    while read -r package; do
        echo "    ,{ \"spdxElementId\": \"SPDXRef-$name\", \"relationshipType\": \"DEPENDS_ON\"," \
            "\"relatedSpdxElement\": \"SPDXRef-deb-$(printf %s "$package" | tr '+_' '..')\" }"
    done </tmp/packages
    printf '  ]\n}\n'
} >"$root/usr/share/doc/$name/sbom.spdx.json"

find "$root" -exec touch -h -d "@$epoch" {} +
rm -f /tmp/libraries /tmp/packages
