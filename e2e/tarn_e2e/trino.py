"""The real Trino on a running Tarn. As a script: starts it and opens a query prompt."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from .server import CACHE, CATALOG, ROOT

HOME = CACHE / "trino-server-476"
CLI = "io.trino:trino-cli:476:jar:executable"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Trino:
    """One coordinator that is its own worker, with the catalog file of `deploy/trino`."""

    def __init__(self, catalog=CATALOG):
        self.catalog = catalog
        self.port = free_port()
        self.data = pathlib.Path(tempfile.mkdtemp(prefix="tarn-trino-"))
        self.process = None

    def start(self, timeout=120):
        java = (CACHE / "java-home").read_text().strip()
        etc = self.data / "etc"
        (etc / "catalog").mkdir(parents=True)
        lake = (ROOT / "deploy" / "trino" / "lake.properties").read_text()
        (etc / "catalog" / "lake.properties").write_text(lake.replace(CATALOG, self.catalog))
        (etc / "node.properties").write_text(
            f"node.environment=test\nnode.id=tarn-e2e\nnode.data-dir={self.data}/data\n"
        )
        (etc / "jvm.config").write_text("-Xmx2G\n--add-modules=jdk.incubator.vector\n")
        (etc / "config.properties").write_text(
            "coordinator=true\nnode-scheduler.include-coordinator=true\n"
            f"node.internal-address=127.0.0.1\nhttp-server.http.port={self.port}\n"
            f"discovery.uri=http://127.0.0.1:{self.port}\ncatalog.management=static\n"
        )
        log = open(self.data / "trino.log", "wb")
        self.process = subprocess.Popen(
            [HOME / "bin" / "launcher", "--etc-dir", etc, "run"],
            stdout=log, stderr=log,
            env={**os.environ, "JAVA_HOME": java, "PATH": f"{java}/bin:{os.environ['PATH']}"},
        )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/info", timeout=2) as answer:
                    if not json.load(answer)["starting"] and self.has_nodes():
                        return self
            except (OSError, ValueError):
                pass
            time.sleep(0.3)
        tail = (self.data / "trino.log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"Trino did not start:\n{tail}")

    def has_nodes(self):
        """Whether it knows of itself as a worker: a query that comes before finds no node to run on."""
        from trino.exceptions import TrinoQueryError

        try:
            return bool(self.query("SELECT node_id FROM system.runtime.nodes WHERE state = 'active'"))
        except TrinoQueryError as error:
            if error.error_name != "NO_NODES_AVAILABLE":
                raise
            return False

    def query(self, sql):
        from trino.dbapi import connect

        connection = connect(host="127.0.0.1", port=self.port, user="e2e", catalog="lake", schema="iot")
        cursor = connection.cursor()
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def cli():
    """The path of Trino's own command line client, fetched once."""
    jar = CACHE / "trino-cli-476-executable.jar"
    if not jar.exists():
        subprocess.run(
            ["mvn", "--quiet", "--batch-mode", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
             f"-Dartifact={CLI}", f"-DoutputDirectory={CACHE}", "-Dmdep.useBaseVersion=true"],
            check=True,
        )
    return jar


def main():
    catalog = sys.argv[1] if len(sys.argv) > 1 else CATALOG
    try:
        urllib.request.urlopen(f"{catalog}/v1/config", timeout=5).close()
    except OSError as error:
        sys.exit(f"no Iceberg catalog answers at {catalog} ({error}): start one with `tarn serve` or `tarn demo --keep`")
    print(f"starting Trino 476 on {catalog} …", flush=True)
    with Trino(catalog) as trino:
        print(f"Trino listens on http://127.0.0.1:{trino.port}; try: SELECT * FROM readings LIMIT 10;", flush=True)
        java = (CACHE / "java-home").read_text().strip()
        command = [f"{java}/bin/java", "-jar", cli(), "--server", f"http://127.0.0.1:{trino.port}",
                   "--catalog", "lake", "--schema", "iot", *sys.argv[2:]]
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
