#!/usr/bin/env bash
# Brings the clients and engines of the end-to-end runs into a cache folder: Python clients, the real Trino, the real nats-server.
# Usage: e2e/setup.sh [python] [trino] [nats-server]   (default: python trino)
# Cache: $TARN_E2E_CACHE, or target/e2e. Safe to run again: what is there is kept.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${TARN_E2E_CACHE:-$root/target/e2e}
mkdir -p "$cache"
trino_version=476
nats_version=v2.15.2

python_clients() {
    local stamp="$cache/venv/.requirements"
    cmp -s "$root/e2e/requirements.txt" "$stamp" && return
    echo "e2e: Python clients into $cache/venv"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --requirement "$root/e2e/requirements.txt"
    cp "$root/e2e/requirements.txt" "$stamp"
}

# Trino needs Java 24 or newer; prints the JAVA_HOME it found, or says how to get one.
java_home() {
    local home
    for home in "${TRINO_JAVA_HOME:-}" "${JAVA_HOME:-}" /usr/lib/jvm/*; do
        [ -n "$home" ] && [ -x "$home/bin/java" ] || continue
        local major
        major=$("$home/bin/java" -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')
        [ "${major:-0}" -ge 24 ] && { echo "$home"; return; }
    done
    echo "e2e: Trino $trino_version needs Java 24 or newer: install a JDK (Temurin 25, say) and set TRINO_JAVA_HOME" >&2
    return 1
}

trino() {
    local home="$cache/trino-server-$trino_version"
    java_home > "$cache/java-home"
    [ -e "$home/.complete" ] && return
    echo "e2e: Trino $trino_version into $home (821 MB are fetched once)"
    rm -rf "$home"
    (cd "$cache" && mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
        -Dartifact="io.trino:trino-server:$trino_version:tar.gz" -DoutputDirectory="$cache" -Dmdep.useBaseVersion=true)
    tar -xzf "$cache/trino-server-$trino_version.tar.gz" -C "$cache"
    # Of the plugins only Iceberg is used; hard links between plugins are why the archive is unpacked whole.
    find "$home/plugin" -mindepth 1 -maxdepth 1 ! -name iceberg -exec rm -rf {} +
    rm -f "$cache/trino-server-$trino_version.tar.gz"
    touch "$home/.complete"
}

nats_server() {
    [ -x "$cache/nats-server" ] && return
    echo "e2e: nats-server $nats_version into $cache (built with Go)"
    GOBIN="$cache" go install "github.com/nats-io/nats-server/v2@$nats_version"
}

[ $# -gt 0 ] || set -- python trino
for part in "$@"; do
    case "$part" in
    python) python_clients ;;
    trino) trino ;;
    nats-server) nats_server ;;
    *) echo "e2e/setup.sh: no such part: $part (python, trino, nats-server)" >&2; exit 2 ;;
    esac
done
