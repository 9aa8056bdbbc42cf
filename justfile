# `just` lists the recipes.

export CARGO_TERM_COLOR := env("CARGO_TERM_COLOR", "auto")
cache := env("TARN_E2E_CACHE", justfile_directory() / "target/e2e")

[private]
default:
    @just --list --unsorted

# Format, lint, test, document: what a change must pass
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test --workspace --locked
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The main job on one screen
demo *arguments:
    cargo run --release --locked -- demo {{ arguments }}

# End-to-end with real clients and engines, Trino included: demo, readings, kills (all of them by default)
e2e *parts:
    e2e/run.sh {{ parts }}

# N times kill -9 under load, then hold the lake against the acknowledgements
kills n="20":
    TARN_E2E_KILLS={{ n }} e2e/run.sh kills

# N faults of the network between devices and Tarn; 10,000 idle connections, clients that do not read
network n="5":
    TARN_E2E_ROUNDS={{ n }} e2e/run.sh network

# Faults on the real broker, small sizes: --servers tarn,nats,nats-always --kills N --syncs 1-N --flips N --cuts N
faults *arguments:
    TARN_E2E_FAULTS="{{ arguments }}" e2e/run.sh faults

# What nats-server's own clients see of the broker, beside the real nats-server: async-nats | nats.py | cli | diff | tools | backups
conformance suite *arguments:
    e2e/conformance.sh {{ suite }} {{ arguments }}

# The real Trino 476 on a running Tarn, with a query prompt
trino catalog="http://127.0.0.1:8181/catalog":
    e2e/setup.sh python trino
    PYTHONPATH=e2e {{ cache }}/venv/bin/python -m tarn_e2e.trino {{ catalog }}

# Licences, sources, duplicate versions and, where the database can be had, advisories
deny:
    cargo deny --locked check

# The broker beside the real nats-server, interleaved: --rows publish512,single,… --rounds N --seconds S (all: a quarter of an hour)
bench-broker *arguments:
    e2e/setup.sh nats-server
    cargo bench --locked --bench broker -- --nats-server {{ cache }}/nats-server {{ arguments }}

# What a commit of the store takes with compaction beside it and without, p50 and p99, on the disk of DIRECTORY: one minute
compaction-latency directory="/var/tmp":
    TMPDIR={{ directory }} cargo test --release --locked -p tarn-broker --lib -- --ignored --nocapture commits_are_not_held_up

# N messages over SUBJECTS subjects in a store of their own in DIRECTORY: filling, opening, asking (100 bytes of disk a message)
scale messages="1000000" subjects="1000000" directory="/tmp/tarn-scale":
    cargo build --release --locked -p tarn-broker --example scale
    target/release/examples/scale {{ messages }} {{ subjects }} {{ directory }}
    target/release/examples/scale {{ messages }} {{ subjects }} {{ directory }}
    rm -r {{ directory }}

# The whole broker by seed on a simulated disk and clock: --seeds N, --from N, --minutes M, --threads N; --seed S replays one
simulate *arguments:
    cargo run --release --locked -p tarn-broker --features simulation --example simulate -- {{ arguments }}

# The store alone by seed: N lives, each cut at a random moment, and as many flipped bits
simulate-store n="100000":
    TARN_CRASH_SEEDS={{ n }} TARN_FLIPS={{ n }} cargo test --release --locked -p tarn-broker --lib store::tests -- --nocapture

# Every pair of deaths within a lake commit (minutes)
crash-pairs:
    cargo test --release --locked -p tarn-processor --lib commit::tests::crashes -- --include-ignored

# A simulated fleet against the real nats-server, killed three times
fleet-nats:
    e2e/setup.sh nats-server
    PATH="{{ cache }}:$PATH" cargo test --locked -p tarn-simulators --test fleet -- --ignored

# Bytes and texts against parsers, recovery and the engine, guided by coverage (cargo-fuzz): TARGET or all, --seconds N for each
[positional-arguments]
fuzz *arguments:
    fuzz/run.sh "$@"
