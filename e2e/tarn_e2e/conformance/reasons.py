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
]

# Commands of the `nats` command line whose text may differ: a pattern of the command and the reason.
CLI_REASONS: list[tuple[str, str]] = []

# Tests of suites that can't pass, a pattern of the name and the reason.
EXCLUDED: dict[str, list[tuple[str, str]]] = {"async-nats": [], "nats.py": []}
