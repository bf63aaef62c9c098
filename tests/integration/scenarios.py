"""What the programs of two-process scenarios share: --list names the scenarios, one a run is played in a folder of its
own. Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import argparse
import os
import shutil
import sys
import tempfile
import traceback

SKIPPED = 77


def segments():
    """Names of what Airlock has in /dev/shm now."""
    return {name for name in os.listdir("/dev/shm") if "airlock" in name}


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def skip(name, reason):
    print(f"SKIPPED: {name}: {reason}")
    return SKIPPED


def play(name, scenario, make_rig):
    work = tempfile.mkdtemp(prefix="airlock-pair.")
    rig = make_rig(work)
    try:
        reason = scenario(rig)
        return skip(name, reason) if reason else 0
    except Exception:  # whatever it was, what the processes said comes with it
        traceback.print_exc()
        for process in rig.started[-12:]:
            print(process.report())
        return 1
    finally:
        rig.close()
        shutil.rmtree(work, ignore_errors=True)


def main(doc, scenarios, make_rig, needs, folders=None, flags=()):
    """`make_rig(args, work)` gives a Pair, `needs(args)` the files without which there is nothing to test; `folders` are
    options beside --bin-dir with their defaults, `flags` those without a value. Does not return."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    folders = {"bin_dir": "build/release/bin", **(folders or {})}
    for folder, default in folders.items():
        parser.add_argument("--" + folder.replace("_", "-"), default=default, type=os.path.abspath)
    for flag in flags:
        parser.add_argument("--" + flag, action="store_true")
    by_name = {scenario.__name__: scenario for scenario in scenarios}
    parser.add_argument("scenario", nargs="?", choices=sorted(by_name))
    args = parser.parse_args()
    if args.list:
        print("\n".join(by_name))
        sys.exit(0)
    if not args.scenario:
        parser.error("name a scenario, or --list")
    for path in needs(args):
        if not os.path.exists(path):
            sys.exit(skip(args.scenario, f"{path} is not built"))
    sys.exit(play(args.scenario, by_name[args.scenario], lambda work: make_rig(args, work)))


def programs(*names):
    """For `needs`: these programs in --bin-dir."""
    return lambda args: [os.path.join(args.bin_dir, name) for name in names]
