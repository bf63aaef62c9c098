"""gpu_server with its CUDA backend on the fake device (tests/cuda_fake), as a process: airlock_cuda_fake.so is the module
and a stand-in for libcuda.so.1 says that there is a GPU. The prefills are compared with one process on the CPU."""
import json
import os
import signal

from gpu import golden  # the comparison that tools/gpu_check makes on a real GPU
from pair import ROOT, TINY, read_json, wait_until
from prefill_scenarios import SMALL_SLOTS, expect_reconciled
from scenarios import read_bytes

GOLDEN = os.path.join(ROOT, "..", "shared", "data", "golden")
MODELS = os.path.join(ROOT, "tests", "data", "models")


def missing(pair):
    """Why there is no fake GPU here, or None."""
    module = os.path.join(pair.bin_dir, "airlock_cuda_fake.so")
    return None if os.path.exists(module) else "airlock_cuda_fake.so is not built: no CUDA toolkit"


def use_fake(pair, **settings):
    """The environment of the processes to come: a driver with `devices` GPUs (1), and how the fake is to behave."""
    for key in [key for key in pair.env if key.startswith("AIRLOCK_CUDA_FAKE_")]:
        del pair.env[key]
    pair.env["LD_LIBRARY_PATH"] = os.path.join(os.path.dirname(pair.bin_dir), "tests", "cuda_fake", "driver")
    pair.env["AIRLOCK_FAKE_DRIVER_DEVICES"] = str(settings.get("devices", 1))
    pair.env.update({f"AIRLOCK_CUDA_FAKE_{key.upper()}": str(value) for key, value in settings.items()})


def fake_server(pair, *args, device="cuda", **kwargs):
    return pair.server("--cuda-module", os.path.join(pair.bin_dir, "airlock_cuda_fake.so"), *args, device=device, **kwargs)


def expect_no_misuse(server):
    assert "cuda_fake: 0 misuses" in server.stderr(), "the fake device has found misuses, or was not asked"


def gpu_prefill_agrees_with_the_cpu_in_each_order(pair):
    if missing(pair):
        return missing(pair)
    for mode in ("lazy", "eager", "threads"):
        use_fake(pair, mode=mode)
        server = fake_server(pair, *SMALL_SLOTS)
        stats = pair.path(f"{mode}.json")
        pair.runner("--compare-local", "--stats-json", stats).expect_exit(0)
        pair.stop(server)
        expect_no_misuse(server)
        used = read_json(stats)["paths"]
        assert all(used[path]["sent"]["bytes"] > 0 for path in ("ring", "pool")), "both paths are to be used"
    return None


def gpu_computes_tiles_one_behind_the_other(pair):
    if missing(pair):
        return missing(pair)
    for mode in ("lazy", "threads"):
        use_fake(pair, mode=mode)
        server = fake_server(pair, *SMALL_SLOTS)
        for attention in ("tee", "offload"):
            for tile in ("auto", 50, "off"):
                stats = pair.path(f"{mode}-{attention}-{tile}.json")
                pair.runner("--tile", tile, "--attention", attention, "--compare-local", "--stats-json", stats,
                            tokens=("--random-tokens", 300)).expect_exit(0)
                assert read_json(stats)["config"]["tile"] == str(tile)
        pair.stop(server)
        expect_no_misuse(server)
    return None


def gpu_server_counts_what_the_runner_counts(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="eager")
    server = fake_server(pair, *SMALL_SLOTS)
    stats = pair.path("runner.json")
    pair.runner("--stats-json", stats).expect_exit(0)
    pair.stop(server)
    expect_reconciled(pair, server, stats, "--used", "ring,pool")
    written = server.stats()
    assert written["host"]["device"].startswith("cuda:0 "), written["host"]
    device = written["ops"]["batch_linear"]["device"]
    assert all(device[part] > 0 for part in ("copy_in_ns", "compute_ns", "copy_out_ns")), device
    return None


def gpu_is_found_and_taken_by_device_auto(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair)
    server = fake_server(pair, device="auto")
    pair.runner("--compare-local").expect_exit(0)
    pair.stop(server)
    assert server.stats()["host"]["device"].startswith("cuda:0 ")
    assert "Airlock fake GPU" in server.stderr(), "the banner names the device"
    return None


def gpu_gives_golden_logits(pair):
    """Each wire type, and both ways of attention for one of them."""
    if missing(pair):
        return missing(pair)
    models = golden.models_below(MODELS, GOLDEN)
    if not models:
        return "no golden model in tests/data/models or ../shared/data/golden"
    if not os.path.isdir(GOLDEN):
        print("SKIPPED in part: ../shared/data/golden is not there, only tests/data/models is compared")
    use_fake(pair, mode="lazy")
    for index, folder in enumerate(models):
        model = ("--model", folder)
        _, tokens = golden.read_npy(os.path.join(folder, "golden_tokens.npy"))
        server = fake_server(pair, *SMALL_SLOTS, "--dtype", "fp32", model=model)
        for wire, attention in (("fp32", "offload"), ("fp16", "offload"), ("bf16", "offload"), ("fp32", "tee")):
            out = pair.path(f"{index}-{wire}-{attention}.npy")
            pair.runner("--wire", wire, "--attention", attention, "--all-logits", "--logits-out", out, model=model,
                        tokens=("--tokens", ",".join(map(str, tokens)))).expect_exit(0)
            fault = golden.compare(os.path.join(folder, "golden_logits.npy"), out, wire)["fault"]
            assert not fault, f"{folder}, --wire {wire} --attention {attention}: {fault}"
        pair.stop(server)
        expect_no_misuse(server)
    return None


def gpu_computes_in_each_type(pair):
    """Weights and products in the type that --dtype names, against one process with the same."""
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="lazy")
    for dtype in ("fp32", "fp16", "bf16"):
        server = fake_server(pair, "--dtype", dtype)
        pair.runner("--wire", dtype, "--compare-local").expect_exit(0)
        pair.stop(server)
        expect_no_misuse(server)
    return None


def gpu_serves_sessions_at_once(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="threads")
    server = fake_server(pair, *SMALL_SLOTS)
    runners = [pair.runner("--compare-local", "--repeat", 3, tokens=("--random-tokens", 48, "--seed", seed))
               for seed in (1, 2, 3)]
    for runner in runners:
        runner.expect_exit(0)
    pair.stop(server)
    expect_no_misuse(server)
    assert len(server.stats()["sessions"]) == 3
    return None


def gpu_server_outlives_a_killed_runner(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="lazy")
    server = fake_server(pair)
    runner = pair.runner("--repeat", 1000000)
    wait_until(lambda: "session " in server.stderr(), "a session")
    runner.signal(signal.SIGKILL)
    runner.exit_code()
    wait_until(lambda: " ended: " in server.stderr(), "the session's end")
    pair.runner("--compare-local").expect_exit(0)
    pair.stop(server)
    expect_no_misuse(server)
    return None


def gpu_that_is_lost_ends_the_server(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="lazy", sticky="200:700")
    server = fake_server(pair)
    runner = pair.runner("--repeat", 1000000)
    server.expect_exit(5)
    # By the reply to the op that failed (5), or by the server's goodbye where that comes first (3).
    assert runner.exit_code() in (5, 3), runner.exit_code()
    assert "cudaErrorIllegalAddress" in server.stderr(), "the server says what happened"
    assert "cudaErrorIllegalAddress" in runner.stderr(), "and tells the runner"
    assert not runner.stdout(), "no result of a prefill that failed"
    assert os.listdir(pair.run_dir) == [], f"left behind: {os.listdir(pair.run_dir)}"
    return None


def several_gpus_give_every_bit_of_one(pair):
    """Floats with attention on both sides, int8 rows, and words; in each order in which several may run."""
    if missing(pair):
        return missing(pair)
    asked = (("--attention", "tee"), ("--attention", "offload"), ("--wire", "int8"), ("--privacy", "otp-verify"))
    want = []
    model = ("--synthetic", pair.path("wide.json"))  # wider than a panel: what columns are cut at
    with open(model[1], "w", encoding="utf-8") as file:
        json.dump({**read_json(TINY), "intermediate_size": 600, "vocab_size": 700}, file)
    for index, (device, settings) in enumerate((("cuda", {}), ("cuda:all", {"devices": 2, "mode": "lazy"}),
                                                ("cuda:all", {"devices": 3, "mode": "threads"}),
                                                ("cuda:2,0", {"devices": 3, "mode": "eager"}))):
        use_fake(pair, **settings)
        server = fake_server(pair, *SMALL_SLOTS, device=device, model=model)
        for number, options in enumerate(asked):
            out = pair.path(f"{index}-{number}.npy")
            pair.runner("--all-logits", "--logits-out", out, *options, model=model).expect_exit(0)
            if index == 0:
                want.append(read_bytes(out))
            assert read_bytes(out) == want[number], f"--device {device}, {settings}, {options}: other bits"
        pair.stop(server)
        expect_no_misuse(server)
        if index > 0:
            names = ", ".join(f"cuda:{ordinal} Airlock fake GPU" for ordinal in
                              ((2, 0) if device == "cuda:2,0" else range(settings["devices"])))
            assert server.stats()["host"]["device"].endswith(f" GPUs: {names}"), server.stats()["host"]
    return None


def one_of_several_gpus_that_is_lost_ends_the_server(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="threads", sticky="400:214", devices=2)
    server = fake_server(pair, device="cuda:all")
    runner = pair.runner("--repeat", 1000000)
    server.expect_exit(5)
    assert runner.exit_code() in (5, 3), runner.exit_code()
    for said in (server.stderr(), runner.stderr()):
        assert "cudaErrorECCUncorrectable" in said and ("cuda:0 Airlock" in said or "cuda:1 Airlock" in said), said
    assert os.listdir(pair.run_dir) == [], f"left behind: {os.listdir(pair.run_dir)}"
    return None


def gpu_op_that_finds_no_memory_fails_alone(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="eager", fail="cublasGemmStridedBatchedEx:7:2")  # the first four while it loads
    server = fake_server(pair)
    runner = pair.runner().expect_exit(5)
    assert "ALLOC_FAILED" in runner.stderr(), "the runner is told"
    pair.runner("--compare-local").expect_exit(0)
    pair.stop(server)
    return None


def gpu_with_too_little_memory_is_said(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, memory_bytes=1 << 20)
    module = os.path.join(pair.bin_dir, "airlock_cuda_fake.so")
    refused = pair.start("gpu_server", "--synthetic", TINY, "--endpoint", pair.endpoint, "--device", "cuda",
                         "--cuda-module", module).expect_exit(5)
    assert "need" in refused.stderr() and "free" in refused.stderr()
    server = fake_server(pair, device="auto")  # goes on without
    pair.runner("--compare-local").expect_exit(0)
    pair.stop(server)
    assert server.stats()["host"]["device"] == "cpu"
    return None


def gpu_works_where_memory_cannot_be_pinned(pair):
    if missing(pair):
        return missing(pair)
    use_fake(pair, mode="lazy", register_fails=1)
    server = fake_server(pair, *SMALL_SLOTS)
    pair.runner("--compare-local").expect_exit(0)
    pair.runner("--compare-local").expect_exit(0)
    pair.stop(server)
    assert server.stderr().count("tensors are copied") == 1, "said once"
    return None


SCENARIOS = (
    gpu_prefill_agrees_with_the_cpu_in_each_order,
    gpu_computes_tiles_one_behind_the_other,
    gpu_server_counts_what_the_runner_counts,
    gpu_is_found_and_taken_by_device_auto,
    gpu_gives_golden_logits,
    gpu_computes_in_each_type,
    gpu_serves_sessions_at_once,
    gpu_server_outlives_a_killed_runner,
    gpu_that_is_lost_ends_the_server,
    several_gpus_give_every_bit_of_one,
    one_of_several_gpus_that_is_lost_ends_the_server,
    gpu_op_that_finds_no_memory_fails_alone,
    gpu_with_too_little_memory_is_said,
    gpu_works_where_memory_cannot_be_pinned,
)
