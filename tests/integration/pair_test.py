#!/usr/bin/env python3
"""Two real processes. One scenario a run: pair_test.py --bin-dir DIR SCENARIO; --list names them all.

Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import argparse
import os
import shutil
import sys
import tempfile
import traceback

import cuda_scenarios
import fault_scenarios
import input_scenarios
import prefill_scenarios
import record_scenarios
import replay_scenarios
from pair import Pair

SCENARIOS = {s.__name__: s for module in (prefill_scenarios, fault_scenarios, input_scenarios, record_scenarios,
                                            replay_scenarios, cuda_scenarios)
             for s in module.SCENARIOS}
SKIPPED = 77


def skip(name, reason):
    print(f"SKIPPED: {name}: {reason}")
    return SKIPPED


def run(name, bin_dir):
    for program in ("gpu_server", "tee_runner"):
        if not os.path.exists(os.path.join(bin_dir, program)):
            return skip(name, f"{program} is not built in {bin_dir}")
    work = tempfile.mkdtemp(prefix="airlock-pair.")
    pair = Pair(bin_dir, work)
    try:
        reason = SCENARIOS[name](pair)
        return skip(name, reason) if reason else 0
    except Exception:  # whatever it was, what the processes said comes with it
        traceback.print_exc()
        for process in pair.started:
            print(process.report())
        return 1
    finally:
        pair.close()
        shutil.rmtree(work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--bin-dir", default="build/release/bin")
    parser.add_argument("scenario", nargs="?", choices=sorted(SCENARIOS))
    args = parser.parse_args()
    if args.list:
        print("\n".join(SCENARIOS))
        return 0
    if not args.scenario:
        parser.error("name a scenario, or --list")
    return run(args.scenario, os.path.abspath(args.bin_dir))


if __name__ == "__main__":
    sys.exit(main())
