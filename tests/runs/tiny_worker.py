"""A worker that starts in a moment and tells outsiders what it did. Run as: python -I -S tiny_worker.py RUN_DIR.

It appends lines `MONOTONIC_SECONDS WHAT RUN_ID PID` to one file that all runs share. It also takes a
lock, one of as many as there are slots for it, for as long as it lives: if all are held, too many are active at once.
"""

import fcntl
import json
import os
import signal
import sys
import time

run_dir = sys.argv[1]
with open(f"{run_dir}/spec.json", encoding="utf-8") as file:  # noqa: PTH123 - pathlib would double its time to start
    spec = json.load(file)
args = spec["args"]
witness = os.open(args["witness"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
stop = []


def say(what: str) -> None:
    os.write(witness, f"{time.monotonic():.6f} {what} {spec['run_id']} {os.getpid()}\n".encode())


def taken(place: int) -> bool:
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


signal.signal(signal.SIGTERM, signal.SIG_IGN if args["stubborn"] else lambda *_: stop.append(1))
say("begin")
places = [os.open(place, os.O_RDWR | os.O_CREAT, 0o600) for place in args["places"]]
patience = time.monotonic() + 0.2  # a killed predecessor may still be on its way out of the kernel
while not any(map(taken, places)):
    if time.monotonic() > patience:
        say("collision")
        break
    time.sleep(0.01)
until = time.monotonic() + args["seconds"]
while time.monotonic() < until and not stop:
    time.sleep(0.01)
if stop:
    say("stopped")
    sys.exit(75)
with open(f"{run_dir}/.tmp-result", "w", encoding="utf-8") as file:  # noqa: PTH123
    json.dump({"result": {"seconds": args["seconds"]}}, file)
os.rename(f"{run_dir}/.tmp-result", f"{run_dir}/result.json")  # noqa: PTH104
say("end")
