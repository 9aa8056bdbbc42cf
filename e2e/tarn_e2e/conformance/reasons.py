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
    Reason("`xkey` in INFO is for auth callout, which Tarn has not", where="^frames:", path=r"\.xkey$"),
    Reason("Field names are taken as they are written; Go takes them in any case", where="SUBJECTS"),
    Reason("nats-server deletes the files of a stream in the background: one of the same name made at once can begin with what is left", where="STREAM\\.(CREATE|INFO)\\.S", path=r"\.state\."),
    Reason("A message is given up after its last delivery: the floor moves past it at once", where="CONSUMER\\.INFO\\.S\\.MD", path="ack_floor"),
    Reason("A purge is no acknowledgement: it leaves the time of the last one as it was", where="CONSUMER\\.LIST\\.S", path=r"ack_floor\.last_active$"),
    Reason("A request that does not wait is refused too while no other can be taken", real="404 No Messages|400 Bad Request - Not a", ours="409 Exceeded MaxWaiting"),
    Reason("A generated name is part of the configuration", path=r"\.config\.name$", ours="<generated>"),
    Reason("The identity of a stream is for sources of other clusters", path="headers$", real="Nats-Stream-Identity"),
    Reason("The acknowledgement policy of sources, `flow_control`, is refused: sources on one server have no use for it", where="flow_control"),
    Reason("Sources from other domains and accounts are refused", where="external"),
]

# Commands of the `nats` command line whose text may differ: a pattern of the command and the reason.
CLI_REASONS: list[tuple[str, str]] = []

# Tests of suites that can't pass, a pattern of the name and the reason.
EXCLUDED: dict[str, list[tuple[str, str]]] = {"async-nats": [], "nats.py": []}
