#!/usr/bin/env python3
"""Two real processes. One scenario a run: pair_test.py --bin-dir DIR SCENARIO; --list names them all.

Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "tools"))
import cuda_scenarios  # noqa: E402 (they find tools/pair.py by the line above)
import data_socket_scenarios  # noqa: E402
import endpoint_scenarios  # noqa: E402
import fault_scenarios  # noqa: E402
import fleet_scenarios  # noqa: E402
import input_scenarios  # noqa: E402
import key_scenarios  # noqa: E402
import output_scenarios  # noqa: E402
import prefill_scenarios  # noqa: E402
import privacy_scenarios  # noqa: E402
import record_scenarios  # noqa: E402
import replay_scenarios  # noqa: E402
import scenarios  # noqa: E402
import sink_scenarios  # noqa: E402
import text_scenarios  # noqa: E402
import tokenize_scenarios  # noqa: E402
from pair import Pair  # noqa: E402

SCENARIOS = [scenario for module in (prefill_scenarios, fault_scenarios, endpoint_scenarios, input_scenarios, output_scenarios,
                                     record_scenarios, replay_scenarios, sink_scenarios, cuda_scenarios, text_scenarios,
                                     tokenize_scenarios, privacy_scenarios, key_scenarios, fleet_scenarios,
                                     data_socket_scenarios)
             for scenario in module.SCENARIOS]

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Pair(args.bin_dir, work),
                   scenarios.programs("gpu_server", "tee_runner"))
