#!/bin/sh
# Packages of headers from the Debian mirror of this machine, as apt verifies them, unpacked into a folder without
# installing anything:   debian_headers.sh FOLDER PACKAGE...
# They are taken from the release named here, the first with ONNX Runtime, whatever release the machine runs.
set -eu
suite=trixie
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift

[ "$(. /etc/os-release && echo "$ID")" = debian ] || { echo "this is not Debian"; exit 1; }
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  grep -vE '^ *#|security' | grep -oE '(https?|file|copy|mirror[+a-z]*):[^ ]*' | head -n 1)
[ -n "$mirror" ] || { echo "no Debian mirror is set up for apt"; exit 1; }
keys=/usr/share/keyrings/debian-archive-keyring.gpg

state="$folder/apt"
mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
echo "deb [signed-by=$keys] $mirror $suite main" > "$state/sources.list"
apt() {
  apt-get -q -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$state/lists" \
    -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none \
    -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Acquire::Retries=1 "$@"
}
apt update
cd "$state"
apt download "$@"
for package in ./*.deb; do dpkg-deb -x "$package" "$folder"; done
rm -rf "$state"
