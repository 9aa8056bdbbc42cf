#!/usr/bin/env bash
# Brings the clients and engines of the end-to-end runs into a cache folder: Python clients, the real Trino, the real nats-server.
# Usage: e2e/setup.sh [python] [trino] [nats-server] [nats-cli] [nats-rs] [nats-py] [nats-tools]   (default: python trino)
# Cache: $TARN_E2E_CACHE, or target/e2e. Safe to run again: what is there is kept.
# Sources come from GitHub at pinned commits; TARN_E2E_GIT names another place with the same repositories, for instance
# TARN_E2E_GIT="/mirror/%s+%s/repo" for /mirror/nats-io+nats.rs/repo.
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

# A work tree of nats-io/$1 at commit $2 in $cache/src/$1.
source_of() {
    local tree="$cache/src/$1" from
    [ "$(git -C "$tree" rev-parse HEAD 2> /dev/null)" = "$2" ] && return
    # The pattern is the operator's own.
    # shellcheck disable=SC2059
    from=$(printf "${TARN_E2E_GIT:-https://github.com/%s/%s}" nats-io "$1")
    echo "e2e: nats-io/$1 at $2 into $tree"
    [ -d "$tree/.git" ] || git init --quiet "$tree"
    git -C "$tree" fetch --quiet --depth 1 "$from" "$2" || git -C "$tree" fetch --quiet "$from"
    git -C "$tree" -c advice.detachedHead=false checkout --quiet --force "$2"
}

nats_cli() {
    [ -x "$cache/nats" ] && return
    source_of natscli c778a5c73818fc74d36f8504f2290a4ae9ebf561
    source_of jsm.go caea3c5246c7b5cb5a4fff0c7288046b2a6bae87
    echo "e2e: the nats command line into $cache (built with Go)"
    (cd "$cache/src/natscli" && go mod edit -replace github.com/nats-io/jsm.go=../jsm.go &&
        GOFLAGS=-mod=mod go build -o "$cache/nats" ./nats)
}

# The tests of async-nats, built into a target folder of their own (TARN_E2E_NATS_RS_TARGET, 3 GB).
nats_rs() {
    source_of nats.rs d00e6b58d8da89a1b60f23b756173b6379dccbd7
    cd "$cache/src/nats.rs"
    CARGO_TARGET_DIR=${TARN_E2E_NATS_RS_TARGET:-$cache/target-nats.rs} CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0 \
        cargo test --quiet --package async-nats --no-run
    cd "$root"
}

nats_py() {
    source_of nats.py 06b677808029274b64e06af9eee7170d3b80a09b
    [ -x "$cache/venv-nats.py/bin/pytest" ] && return
    python3 -m venv "$cache/venv-nats.py"
    "$cache/venv-nats.py/bin/pip" install --quiet pytest==9.2.0 pytest-asyncio==1.5.0 pytest-timeout==2.4.0 aiohttp==3.14.5 nkeys==0.2.1
}

# What operators watch a server with.
nats_tools() {
    local tool
    source_of prometheus-nats-exporter 2fdbfd7eb2cab72b377ff74b8eb2e32702a65eec
    source_of nats-top 69634b112d82c5fbb21bb5a90cbdfa1504a317df
    for tool in prometheus-nats-exporter nats-top; do
        [ -x "$cache/$tool" ] && continue
        echo "e2e: $tool into $cache (built with Go)"
        (cd "$cache/src/$tool" && GOFLAGS=-mod=mod go build -o "$cache/$tool" .)
    done
}

[ $# -gt 0 ] || set -- python trino
for part in "$@"; do
    case "$part" in
    python) python_clients ;;
    trino) trino ;;
    nats-server) nats_server ;;
    nats-cli) nats_cli ;;
    nats-rs) nats_rs ;;
    nats-py) nats_py ;;
    nats-tools) nats_tools ;;
    *) echo "e2e/setup.sh: no such part: $part (python, trino, nats-server, nats-cli, nats-rs, nats-py, nats-tools)" >&2; exit 2 ;;
    esac
done
