#!/usr/bin/env python3
"""What gpu_server does with drivers, devices and CUDA modules of all kinds. No GPU and no CUDA toolkit is needed.

door_test.py --bin-dir DIR --module-dir DIR --driver-dir DIR SCENARIO; --list names them all.
Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import ctypes
import os
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "integration"), os.path.join(HERE, "..", "..", "tools")]
import scenarios  # noqa: E402
from pair import TINY, Pair, read_json, wait_until  # noqa: E402
from scenarios import read_bytes  # noqa: E402
from text_scenarios import ask, endpoint, text_model  # noqa: E402

NAME = "NVIDIA Fake"  # what fake_driver.cc calls a device


class Door(Pair):
    """A Pair whose server meets the fake driver, steered by `driver`: AIRLOCK_FAKE_DRIVER_* without the prefix."""

    def __init__(self, bin_dir, work, module_dir, driver_dir):
        super().__init__(bin_dir, work)
        self.module_dir = module_dir
        self.driver_dir = driver_dir
        self.no_driver_dir = self.path("nothing")
        os.mkdir(self.no_driver_dir)
        self.env["AIRLOCK_DOOR_MODULE"] = ""

    def module(self, name="door_module.so"):
        return os.path.join(self.module_dir, name)

    def launch(self, *args, driver=None, driver_dir=None, mode="", program=None):
        """A gpu_server under way: a Process."""
        self.env["LD_LIBRARY_PATH"] = driver_dir or self.driver_dir
        self.env["AIRLOCK_DOOR_MODULE"] = mode
        for name in [n for n in self.env if n.startswith("AIRLOCK_FAKE_DRIVER_")]:
            del self.env[name]
        for name, value in (driver or {}).items():
            self.env["AIRLOCK_FAKE_DRIVER_" + name] = str(value)
        self.stats_path = self.path(f"{len(self.started)}-server.json")
        return self.start(program or "gpu_server", "--synthetic", TINY, "--endpoint", self.endpoint, "--threads", 1,
                          "--stats-json", self.stats_path, *args, name="gpu_server")

    def serving(self, *args, **kwargs):
        server = self.launch(*args, **kwargs)
        wait_until(lambda: "ready " in server.stdout() or not server.running(), "ready", 600)
        assert "ready " in server.stdout(), "gpu_server ended before it was ready"
        return server

    def refused(self, *args, says, code=5, **kwargs):
        """A server that ends with `code` before it serves, and says why in one line of error."""
        server = self.launch(*args, **kwargs).expect_exit(code)
        assert "ready " not in server.stdout()
        errors = [line for line in server.stderr().splitlines() if "error" in line.split(says[0])[0].lower()]
        expect_said(server, *says)
        assert len(errors) == 1, f"not one line of error: {errors}"
        return server

    def falls_back(self, *args, says, **kwargs):
        """A server that says why there is no GPU, once, and serves on the CPU."""
        server = self.serving("--device", "auto", *args, **kwargs)
        expect_said(server, *says)
        assert server.stderr().count("using the CPU") == 1, "not said once"
        self.runner().expect_exit(0)
        self.stop(server)
        host = read_json(self.stats_path)["host"]
        assert host["device"] == "cpu" and "driver" not in host, host


def expect_said(server, *words):
    text = server.stderr()
    for word in words:
        assert word in text, f"{word!r} is not in what {server.name} said"


def mapped(process):
    with open(f"/proc/{process.pid}/maps", encoding="utf-8") as file:
        return file.read()


def machine_has_a_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
        return True
    except OSError:
        return False


def without_a_driver_auto_is_the_cpu_and_cuda_is_refused(door):
    if machine_has_a_driver():
        return "this machine has an NVIDIA driver"
    says = ("there is no NVIDIA driver", "libcuda.so.1")
    door.falls_back(says=("no GPU: ", *says), driver_dir=door.no_driver_dir)
    door.refused("--device", "cuda", says=("--device cuda: ", *says), driver_dir=door.no_driver_dir)
    assert not os.path.exists(door.path("run/ctl")), "an endpoint is left"
    return None


def a_driver_without_a_device_is_told_from_none(door):
    for driver in ({"DEVICES": 0}, {"DEVICES": 0, "INIT": 0}, {"INIT": 100}):
        door.falls_back(says=("no GPU: the NVIDIA driver finds no device",), driver=driver)
        door.refused("--device", "cuda:0", says=("--device cuda:0: the NVIDIA driver finds no device",), driver=driver)
    door.env["CUDA_VISIBLE_DEVICES"] = "-1"
    door.refused("--device", "cuda", says=("CUDA_VISIBLE_DEVICES is '-1'",), driver={"DEVICES": 0})


def a_driver_that_does_not_start_is_named_by_its_error(door):
    door.falls_back(says=("error 803, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",), driver={"INIT": 803})
    door.refused("--device", "cuda", says=("cuInit gave error 999, CUDA_ERROR_UNKNOWN",), driver={"INIT": 999})
    door.refused("--device", "cuda", says=("cuInit gave error 12345",), driver={"INIT": 12345})


def a_server_whose_driver_hangs_can_be_stopped(door):
    server = door.launch("--device", "auto", driver={"HANG": 1})
    wait_until(lambda: "cuInit hangs" in server.stderr(), "the driver")
    server.signal(signal.SIGTERM)
    server.expect_exit(0)
    expect_said(server, "stopped while the driver was starting")


def a_library_that_is_no_driver_is_refused(door):
    folder = door.path("odd")
    os.mkdir(folder)
    library = os.path.join(folder, "libcuda.so.1")
    shutil.copy(door.module("no_module.so"), library)
    door.refused("--device", "cuda", says=("is no NVIDIA driver library", "cuInit"), driver_dir=folder)
    with open(library, "wb") as file:
        file.write(b"no library at all")
    door.refused("--device", "cuda", says=("there is no NVIDIA driver", "libcuda.so.1"), driver_dir=folder)
    door.falls_back(says=("there is no NVIDIA driver",), driver_dir=folder)


def a_device_that_is_not_there_is_refused_with_a_list(door):
    door.refused("--device", "cuda:1", says=(f"--device cuda:1: there is 1 device: cuda:0 {NAME}",))
    door.refused("--device", "cuda:7", driver={"DEVICES": 2},
                 says=(f"--device cuda:7: there are 2 devices: cuda:0 {NAME}, cuda:1 {NAME}",))


def a_module_that_is_not_there_is_said(door):
    args = ("--cuda-module", "/nonexistent/module.so")
    door.refused("--device", "cuda", *args, says=("/nonexistent/module.so cannot be read: No such file",))
    door.falls_back(*args, says=(f"cuda:0 {NAME} is not used: ", "/nonexistent/module.so"))


def the_module_is_looked_for_beside_the_program_and_in_lib(door):
    for folder in ("tree/bin", "tree/lib/airlock"):
        os.makedirs(door.path(folder))
    program = door.path("tree/bin/gpu_server")
    shutil.copy(os.path.join(door.bin_dir, "gpu_server"), program)
    door.refused("--device", "cuda", says=("this build has no CUDA module", "CUDA toolkit"), program=program)
    door.falls_back(says=("this build has no CUDA module",), program=program)
    for place in ("tree/lib/airlock/airlock_cuda.so", "tree/bin/airlock_cuda.so"):
        shutil.copy(door.module(), door.path(place))
        server = door.serving("--device", "cuda", program=program)
        assert os.path.realpath(door.path(place)) in mapped(server), f"{place} is not loaded"
        door.stop(server)


def a_name_without_a_slash_is_a_file_here(door):
    os.chdir(door.work)
    shutil.copy(door.module(), "module.so")
    door.stop(door.serving("--device", "cuda", "--cuda-module", "module.so"))
    door.refused("--device", "cuda", "--cuda-module", "libz.so.1", says=("libz.so.1 cannot be read",))


def a_module_of_another_build_is_refused(door):
    for mode, says in (("other_abi", ("has interface 4711, this gpu_server has ",)),
                       ("other_version", ("is of release 0.0.99, this gpu_server is of ",)),
                       ("no_version", ("is of release none",)),
                       ("no_create", ("lacks a function: create",)),
                       ("nothing", ("gives no interface",))):
        args = ("--cuda-module", door.module())
        door.refused("--device", "cuda", *args, says=says, mode=mode)
        door.falls_back(*args, says=says, mode=mode)


def a_file_that_is_no_module_is_refused(door):
    text = door.path("module.txt")
    with open(text, "w", encoding="utf-8") as file:
        file.write("no library at all")
    fifo = door.path("fifo")
    os.mkfifo(fifo)
    for path, says in ((text, (f"{text} does not load: ",)),
                       (door.work, (f"{door.work} is not a file",)),
                       (fifo, (f"{fifo} is not a file",)),
                       (door.module("no_module.so"), ("is no module of Airlock's", "airlock_cuda_module")),
                       (door.module("needs_absent.so"), ("does not load: ", "absent_library.so: cannot open shared"))):
        door.refused("--device", "cuda", "--cuda-module", path, says=says)
        door.falls_back("--cuda-module", path, says=says)


def a_module_that_cannot_use_the_device_is_passed_over_by_auto(door):
    args = ("--cuda-module", door.module())
    for mode, says in (("old_driver", ("the driver knows CUDA 11.0, 13.0 is needed",)),
                       ("no_memory", ("the weights need 9 GiB, 3 GiB are free",))):
        door.refused("--device", "cuda", *args, says=says, mode=mode)
        door.falls_back(*args, says=says, mode=mode)
    for device in ("auto", "cuda"):  # a CPU would not like the model either
        door.refused("--device", device, *args, says=("a tensor is bad",), code=1, mode="bad_model")


def a_module_serves_and_the_device_is_shown(door):
    server = door.serving("--device", "cpu")
    door.runner("--logits-out", door.path("cpu.npy")).expect_exit(0)
    door.stop(server)
    for device in ("auto", "cuda", "cuda:1"):
        server = door.serving("--device", device, "--cuda-module", door.module(), driver={"DEVICES": 2})
        name = f"cuda:{1 if device == 'cuda:1' else 0} NVIDIA Door"
        expect_said(server, f"device {name}, driver 13.0, 5.0 GiB", "loading onto cuda:", "B/s", "door: tf32 is off")
        runner = door.runner("--logits-out", door.path("door.npy"), "--stats-json", door.path("runner.json"))
        runner.expect_exit(0)
        door.stop(server)
        assert read_bytes(door.path("cpu.npy")) == read_bytes(door.path("door.npy")), "other logits"
        host = read_json(door.stats_path)["host"]
        expected = {"device": name, "driver": "13.0", "cuda_runtime": "13.1", "cublas": "13.2",
                    "device_memory_bytes": 5 << 30}
        assert expected.items() <= host.items(), host
        assert read_json(door.path("runner.json"))["host"]["device"] == name


def several_gpus_are_one_model_and_are_shown(door):
    args = ("--cuda-module", door.module())
    for device, order in (("cuda:all", (0, 1)), ("cuda:2,0", (2, 0))):
        server = door.serving("--device", device, *args, driver={"DEVICES": 2 if device == "cuda:all" else 3})
        for ordinal in order:
            expect_said(server, f"loading onto cuda:{ordinal}", f"device cuda:{ordinal} NVIDIA Door, driver 13.0, 5.0 GiB")
        for options in ((), ("--attention", "offload"), ("--privacy", "otp-verify")):
            door.runner("--compare-local", "--stats-json", door.path("runner.json"), *options).expect_exit(0)
        door.stop(server)
        host = read_json(door.stats_path)["host"]
        name = "2 GPUs: " + ", ".join(f"cuda:{ordinal} NVIDIA Door" for ordinal in order)
        assert {"device": name, "driver": "13.0", "device_memory_bytes": 10 << 30}.items() <= host.items(), host
        assert read_json(door.path("runner.json"))["host"]["device"] == name


def one_of_several_gpus_that_cannot_be_used_is_named(door):
    args = ("--cuda-module", door.module())
    door.refused("--device", "cuda:0,2", *args, driver={"DEVICES": 2},
                 says=(f"--device cuda:0,2: there are 2 devices: cuda:0 {NAME}, cuda:1 {NAME}",))
    for device in ("cuda:all", "cuda:0,1"):
        door.refused("--device", device, *args, driver={"DEVICES": 2}, mode="no_second",
                     says=("cuda:1 NVIDIA Door: it is busy",))
    for device in ("cuda:0,0", "cuda:0,", "cuda:", "cuda:1000", "cuda:-1", "cuda:0;1", "cuda:every"):
        expect_said(door.launch("--device", device, *args).expect_exit(2), f"'{device}' is neither")
    # With one there is nothing to put together.
    server = door.serving("--device", "cuda:all", *args)
    door.stop(server)
    assert read_json(door.stats_path)["host"]["device"] == "cuda:0 NVIDIA Door"


def tf32_is_the_modules_and_no_cpus(door):
    server = door.serving("--device", "cuda", "--tf32", "--cuda-module", door.module())
    expect_said(server, "door: tf32 is on")
    door.stop(server)
    server = door.serving("--device", "cpu", "--tf32")
    assert server.stderr().count("--tf32 has no effect on a CPU") == 1
    door.stop(server)


def a_lost_device_ends_runner_and_server(door):
    server = door.serving("--device", "cuda", "--cuda-module", door.module(), mode="lost")
    runner = door.runner()
    assert runner.exit_code() in (3, 5), "by the goodbye or by the op's answer"
    expect_said(runner, "door: the device is lost")
    server.expect_exit(5)
    expect_said(server, "door: the device is lost")
    assert os.path.exists(door.stats_path), "no statistics after a failure"
    assert not os.listdir(door.run_dir) or os.listdir(door.run_dir) == ["ctl.lock"], os.listdir(door.run_dir)


def an_op_stuck_on_a_lost_device_holds_no_server(door):
    server = door.serving("--device", "cuda", "--cuda-module", door.module(), mode="stuck")
    runner = door.runner()
    server.expect_exit(5)
    expect_said(server, "door: the device is lost", "still under way after 5 s")
    assert runner.exit_code() == 3
    expect_said(runner, "door: the device is lost")


def a_cpu_server_opens_neither_driver_nor_module(door):
    for device, driver in (("cpu", {}), ("auto", {"DEVICES": 0})):
        server = door.serving("--device", device, "--cuda-module", door.module(), driver=driver)
        text = mapped(server)
        assert "door_module" not in text, "the module is loaded"
        assert ("libcuda" in text) == (device == "auto"), "the driver is loaded"
        door.stop(server)


def no_program_links_a_cuda_library(door):
    readelf = shutil.which("readelf")
    if readelf is None:
        return "no readelf"
    for program in ("gpu_server", "tee_runner"):
        done = subprocess.run([readelf, "-d", "--wide", os.path.join(door.bin_dir, program)], check=True,
                              capture_output=True, text=True)
        needed = [line for line in done.stdout.splitlines() if "NEEDED" in line]
        assert needed, "readelf names no library"
        for line in needed:
            for word in ("libcuda", "libcublas", "libcudart", "libnvrtc", "airlock_cuda"):
                assert word not in line, f"{program} needs {line}"
    runner = read_bytes(os.path.join(door.bin_dir, "tee_runner"))
    server = read_bytes(os.path.join(door.bin_dir, "gpu_server"))
    for text in (b"airlock_cuda", b"libcuda.so"):
        assert text in server and text not in runner, text
    return None


def a_server_that_lies_ends_every_command_with_4(door):
    model = text_model(door)
    door.env["LD_LIBRARY_PATH"] = door.driver_dir

    def lying(mode="lies"):
        # "lies" is honest for 40 ops: some tokens come first.
        door.env["AIRLOCK_DOOR_MODULE"] = mode
        return door.server("--cuda-module", door.module(), model=("--model", model), device="cuda")

    def expect_caught(process):
        process.expect_exit(4)
        assert "failed its check" in process.stderr() and "lm_head" not in process.stderr().split("failed its check")[0], \
            process.report()

    server = lying()
    expect_caught(door.start("tee_runner", "generate", "--endpoint", door.endpoint, "--model", model, "--privacy", "otp-verify",
                             "--prompt", "Airlock hides", "--max-tokens", 100, "--ignore-eos"))
    door.stop(server)
    for mode in ("verify", "otp-verify"):
        server = lying()
        expect_caught(door.runner("--privacy", mode, "--repeat", 50, model=("--model", model)))
        door.stop(server)
    server = lying()
    serve = endpoint(door, model, "--privacy", "otp-verify")
    status, said = ask(serve, "Airlock hides", count=100)
    assert status >= 500, (status, said)
    expect_caught(serve)
    door.stop(server)
    # To the token that a server is tried with: at the first start, and when it comes back.
    server = lying("lies at once")
    expect_caught(door.start("tee_runner", "serve", "--endpoint", door.endpoint, "--model", model, "--chat-template", "chatml",
                             "--listen", "127.0.0.1:0", "--privacy", "otp-verify"))
    door.stop(server)
    server = lying("honest")
    serve = endpoint(door, model, "--privacy", "otp-verify")
    server.signal(signal.SIGKILL)
    server.expect_exit(-signal.SIGKILL)
    server = lying("lies at once")
    expect_caught(serve)
    door.stop(server)
    # Not checked, it goes unseen: the lie is one.
    server = lying()
    door.runner("--privacy", "otp", "--repeat", 50, model=("--model", model)).expect_exit(0)
    door.stop(server)


SCENARIOS = (
    a_server_that_lies_ends_every_command_with_4,
    without_a_driver_auto_is_the_cpu_and_cuda_is_refused, a_driver_without_a_device_is_told_from_none,
    a_driver_that_does_not_start_is_named_by_its_error, a_server_whose_driver_hangs_can_be_stopped,
    a_library_that_is_no_driver_is_refused,
    a_device_that_is_not_there_is_refused_with_a_list, a_module_that_is_not_there_is_said,
    the_module_is_looked_for_beside_the_program_and_in_lib, a_name_without_a_slash_is_a_file_here,
    a_module_of_another_build_is_refused, a_file_that_is_no_module_is_refused,
    a_module_that_cannot_use_the_device_is_passed_over_by_auto, a_module_serves_and_the_device_is_shown,
    several_gpus_are_one_model_and_are_shown, one_of_several_gpus_that_cannot_be_used_is_named,
    tf32_is_the_modules_and_no_cpus, a_lost_device_ends_runner_and_server,
    an_op_stuck_on_a_lost_device_holds_no_server, a_cpu_server_opens_neither_driver_nor_module,
    no_program_links_a_cuda_library)



def needs(args):
    return [os.path.join(args.bin_dir, "gpu_server"), os.path.join(args.bin_dir, "tee_runner"),
            os.path.join(args.module_dir, "door_module.so"), os.path.join(args.driver_dir, "libcuda.so.1")]


if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Door(args.bin_dir, work, args.module_dir, args.driver_dir), needs,
                   {"module_dir": "build/release/tests/gpu_server/door/modules",
                    "driver_dir": "build/release/tests/cuda_fake/driver"})
