#!/usr/bin/env bash
# The end-to-end run: real clients, real engines, the release binary with its defaults. Needs the usual ports to be free.
# Usage: e2e/run.sh [demo] [configurations] [readings] [kills] [network] [faults]   (default: all)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
export TARN_E2E_CACHE=${TARN_E2E_CACHE:-$root/target/e2e}
cargo build --release --locked --bin tarn
tarn=${CARGO_TARGET_DIR:-$root/target}/release/tarn
[ $# -gt 0 ] || set -- demo configurations readings kills network faults
if [ "$*" = faults ]; then
    e2e/setup.sh python
    case "${TARN_E2E_FAULTS:-}" in *nats*) e2e/setup.sh nats-server ;; esac
else
    e2e/setup.sh python trino
    command -v mosquitto_pub > /dev/null || { echo "e2e: mosquitto_pub is missing: install mosquitto-clients" >&2; exit 2; }
fi
python() { PYTHONPATH="$root/e2e" "$TARN_E2E_CACHE/venv/bin/python" "$@"; }
for part in "$@"; do
    echo "== $part"
    case "$part" in
    demo) "$tarn" demo --devices 200 --seconds 20 ;;
    configurations) python -m tarn_e2e.configurations ;;
    readings) python -m tarn_e2e.readings ;;
    kills) python -m tarn_e2e.kills --kills "${TARN_E2E_KILLS:-20}" ;;
    network) python -m tarn_e2e.network --rounds "${TARN_E2E_ROUNDS:-5}" ;;
    faults)
        command -v strace > /dev/null || { echo "e2e: strace is missing: install strace" >&2; exit 2; }
        # Split into words on purpose.
        # shellcheck disable=SC2086
        TARN_BIN="$tarn" python -m tarn_e2e.faults ${TARN_E2E_FAULTS:-}
        ;;
    *) echo "e2e/run.sh: no such part: $part (demo, configurations, readings, kills, network, faults)" >&2; exit 2 ;;
    esac
done
echo "e2e: all held"
