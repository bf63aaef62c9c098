#!/usr/bin/env python3
"""Two real processes. One scenario a run: pair_test.py --bin-dir DIR SCENARIO; --list names them all.

Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import cuda_scenarios
import fault_scenarios
import input_scenarios
import prefill_scenarios
import record_scenarios
import replay_scenarios
import scenarios
from pair import Pair

SCENARIOS = [scenario for module in (prefill_scenarios, fault_scenarios, input_scenarios, record_scenarios, replay_scenarios,
                                     cuda_scenarios) for scenario in module.SCENARIOS]

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Pair(args.bin_dir, work),
                   scenarios.programs("gpu_server", "tee_runner"))
