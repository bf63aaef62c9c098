"""What several runners get from one server at the same time."""
import os

from measure import WIRE, random_tokens
from pair import read_json


def clients_per_s(pair, model, tokens, count, repeat, threads=1):
    """Tokens a second of so many clients, while all of them run: a run that is partly within that time counts in
    part."""
    runners = [pair.runner("--repeat", repeat + 1, "--wire", WIRE, "--attention", "tee", "-o", "json", model=model,
                           tokens=random_tokens(tokens), threads=threads) for _ in range(count)]
    spans = []  # of each client's runs, which follow each other to the end of its output
    for runner in runners:
        runner.expect_exit(0, 3600)
        end = os.stat(runner.out_path).st_mtime
        of_client = []
        for run_ns in reversed(read_json(runner.out_path)["runs_ns"][1:]):
            of_client.append((end - run_ns / 1e9, end))
            end = of_client[-1][0]
        spans.append(of_client)
    first, last = max(span[-1][0] for span in spans), min(span[0][1] for span in spans)
    together = last - first > 0.5 * (spans[0][0][1] - spans[0][-1][0])
    assert together, "the clients did not run at the same time: more --repeat"
    runs = sum(max(0, min(end, last) - max(start, first)) / (end - start) for span in spans for start, end in span)
    return tokens * runs / (last - first)
