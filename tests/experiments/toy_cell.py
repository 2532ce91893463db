"""A command of cells that takes no time: the tests of sweeps run it in place of JAX."""

import json
import os
import signal
import sys
import time
from pathlib import Path

# Values of `ipc` for which the command does something else than to succeed.
FAILS, WAITS, IS_STOPPED = 97, 98, 99


def check(values, folder):
    del values, folder


def run(values, folder, *sets):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = values["ipc"] / 100
    if sets:  # That of the set it evaluates.
        accuracy = json.loads(Path(sets[0], "result.json").read_text())["accuracy_mean"]
    result = {
        "accuracies": [[accuracy, accuracy]],
        "accuracy_mean": accuracy,
        "accuracy_std": 0.0,
        "num_experiments": 1,
        "seconds": 1.0,
    }
    (folder / "result.json").write_text(json.dumps(result))


def main():
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
    ipc = int(flags["config.ipc"])
    if ipc == FAILS:
        sys.exit("error: this cell fails")
    if ipc == IS_STOPPED:
        os.kill(os.getpid(), signal.SIGINT)
    if ipc == WAITS:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved its state"))
        print("waits", flush=True)
        time.sleep(60)
    sets = [flags["set"]] if "set" in flags else []
    run({"ipc": ipc}, flags["workdir"], *sets)


if __name__ == "__main__":
    main()
