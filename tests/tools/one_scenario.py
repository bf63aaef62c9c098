"""What test programs of one scenario a run share: --list names the scenarios, one is played in a folder of its own. Exit 0:
it holds; 1: it does not; 77: skipped, with the reason."""
import argparse
import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


class Skip(Exception):
    """What a scenario lacks; its words are the reason."""


def main(doc, scenarios, play):
    """`play(scenario, folder, bin_dir)` plays one. Does not return."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", default=os.path.join(ROOT, "build", "release", "bin"), type=os.path.abspath)
    parser.add_argument("--list", action="store_true")
    names = {scenario.__name__: scenario for scenario in scenarios}
    parser.add_argument("scenario", nargs="?", choices=sorted(names))
    args = parser.parse_args()
    if args.list:
        print("\n".join(names))
        sys.exit(0)
    if not args.scenario:
        parser.error("name a scenario; --list names them")
    with tempfile.TemporaryDirectory(prefix="airlock-scenario.", ignore_cleanup_errors=True) as folder:
        try:
            play(names[args.scenario], folder, args.bin_dir)
        except Skip as reason:
            print(f"SKIPPED: {reason}")
            sys.exit(77)
    sys.exit(0)
