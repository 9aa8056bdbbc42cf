#!/usr/bin/env bash
# Runs one of the yardsticks against the real nats-server and the release binary, prints what passed, failed and is excluded,
# and fails on what nobody has explained. Usage: e2e/conformance.sh async-nats|nats.py|cli|diff|tools|backups|accounts|clients [arguments]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
export TARN_E2E_CACHE=${TARN_E2E_CACHE:-$root/target/e2e}
suite=${1:?async-nats, nats.py, cli, diff, tools, backups, accounts or clients}
shift
case "$suite" in
async-nats) needs=nats-rs module=suites ;;
nats.py) needs=nats-py module=suites ;;
cli) needs=nats-cli module=cli ;;
backups) needs=nats-cli module=backups ;;
diff) needs='' module=diff ;;
tools) needs=nats-tools module=tools ;;
accounts) needs='' module=accounts ;;
clients) needs='nats-cli nats-py' module=clients ;;
*) echo "e2e/conformance.sh: no such suite: $suite (async-nats, nats.py, cli, diff, tools, backups, accounts, clients)" >&2; exit 2 ;;
esac
# Words are parts.
# shellcheck disable=SC2086
e2e/setup.sh nats-server $needs
[ -n "${TARN_BIN:-}" ] || cargo build --release --locked --bin tarn
[ "$module" = suites ] && set -- "$suite" "$@"
PYTHONPATH="$root/e2e" python3 -m "tarn_e2e.conformance.$module" "$@"
