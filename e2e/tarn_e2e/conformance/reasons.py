"""The differences that are known and meant, each with its reason."""

import re


class Reason:
    """Explains the differences whose place, path and answers fit the patterns."""

    def __init__(self, text: str, where: str = "", path: str = "", real: str = "", ours: str = ""):
        self.text = text
        self.patterns = [re.compile(pattern, re.DOTALL) for pattern in (where, path, real, ours)]

    def explains(self, difference) -> bool:
        values = (difference.where, difference.path, str(difference.real), str(difference.ours))
        return all(pattern.search(value) for pattern, value in zip(self.patterns, values))


REASONS = [
    Reason("The wording behind \"invalid JSON\" is the parser's own", path=r"\.error\.description$", real="^(invalid JSON|json:)", ours="invalid JSON"),
    Reason("A stream of `>` takes in requests to JetStream and their answers too in nats-server; in Tarn, what clients publish and advisories", where=r'INFO\.S after .*"subjects": \[">"\]', path=r"\.state\."),
    Reason("A request that does not exist is met with silence, in a domain too", where=r"\$JS\.hub\.API\.NOPE$"),
    Reason("nats-server sets up what is copied behind its answer: the filter is in the next one", where=r"STREAM\.CREATE\.\w .*\"mirror\".*filter_subject", path=r"\.mirror\.filter_subject$", real="<nothing>"),
    Reason("A message is given up after its last delivery: the floor moves past it at once", where=r"CONSUMER\.INFO\.S\.MD", path="ack_floor"),
    Reason("A purge is no acknowledgement: it leaves the time of the last one as it was", where=r"CONSUMER\.LIST\.S", path=r"ack_floor\.last_active$"),
    Reason("Profiles and counters of the Go runtime", where="^GET /(stacksz|debug/vars|expvarz)"),
    Reason("JetStream is not replicated: there are no queues between servers or groups to tell of", where="^GET /(ipqueuesz|raftz)"),
]

# Commands of the `nats` command line whose text may differ: a pattern of the command, of the lines that differ, and the reason.
CLI_REASONS: list[tuple[str, str, str]] = [
    (r"^server (info|request variables)$", r"^[-+] +(Go Version:|\"go\":)", "Tarn is not built with Go"),
    (r"^stream backup ", r"^[-+] Received .* compressed data", "Another compressor makes archives of another size"),
]

INTERNET = "needs the internet: {}"
CLUSTER = "needs a cluster: three servers with routes between them"

# Tests of suites that can't pass, a pattern of the name and the reason.
EXCLUDED: dict[str, list[tuple[str, str]]] = {
    "async-nats": [
        (r"client::connect_domain$|client::(custom_tls_client|tls_with_native_certs)$", INTERNET.format("demo.nats.io")),
        (r"service::schemas$", INTERNET.format("schemas from raw.githubusercontent.com")),
        (r"service::cross_clients_tests$", "a missing program: `deno`, or another client's that it starts"),
        (r"jetstream::create_stream_with_replicas$|server_pool::(server_pool_contains_discovered_servers|set_server_pool_marks_all_as_explicit)$", CLUSTER),
    ],
    "nats.py": [
        (r"^ClusterDiscovery(Reconnect)?Test::", CLUSTER),
    ],
}
