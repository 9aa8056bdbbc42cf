"""`kill -9` of `tarn serve` under load from MQTT QoS 1 and NATS; acknowledgements are logged by another process."""

import argparse
import random
import tempfile
import time

from .fleet import Fleet, hold
from .server import Tarn


def run(kills, seed):
    pick = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tarn-e2e-") as folder, Tarn(folder) as tarn:
        fleet = Fleet(folder)
        restarts = []
        for number in range(1, kills + 1):
            time.sleep(pick.uniform(0.5, 4.0))
            tarn.kill()
            restarts.append(tarn.start())
            print(f"kills: {number} of {kills}, ready again after {restarts[-1]:.2f} s", flush=True)
        time.sleep(2)
        sent, acked = fleet.stop()
        assert len(acked) > kills * 50, f"only {len(acked)} acknowledged: that is no load"
        figures = hold(sent, acked)
        print(f"kills: {kills} × kill -9, seed {seed}: {figures}; slowest restart {max(restarts):.2f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    run(options.kills, options.seed)


if __name__ == "__main__":
    main()
