"""Where a server is reached, how it is told to end, what the system denies it: the world as an unlucky user has it."""
import os
import shutil
import signal
import stat
import subprocess

from fault_scenarios import await_work, expect_serves, under_way
from pair import TINY, WATCHDOG_S, wait_until
from scenarios import segments

# A mount namespace of its own, in which the words behind it run as a script: needs root.
UNSHARED = ("unshare", "--mount", "sh", "-ec")


def can_mount():
    return subprocess.run([*UNSHARED, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0


def with_umask(mask):
    return ("sh", "-c", f'umask {mask}; exec "$@"', "sh")


def second_server(pair, endpoint, *args, within=()):
    return pair.start("gpu_server", "--synthetic", TINY, "--endpoint", endpoint, "--threads", 1, "--device", "cpu", *args,
                      within=within)


def expect_refused(pair, endpoint, word):
    second = second_server(pair, endpoint).expect_exit(5)
    assert "in use" in second.stderr() and word in second.stderr(), second.stderr()


def endpoint_is_held_though_a_cleaner_removes_files(pair):
    """ctl.lock, the socket, the counters, each alone and all: no second server gets in, and the first one serves those
    that it has."""
    first = pair.server()
    runner = under_way(pair, first)
    for names in (["ctl.lock"], ["ctl.stats"], ["ctl"], ["ctl.lock", "ctl.stats", "ctl"]):
        for name in names:
            if os.path.exists(os.path.join(pair.run_dir, name)):
                os.remove(os.path.join(pair.run_dir, name))
        expect_refused(pair, pair.endpoint, "live")
    assert runner.running(), "the session goes on"
    pair.stop(first)
    runner.expect_exit(3)
    second = pair.server()
    expect_serves(pair, second)
    pair.stop(second)


def cleaner_of_temporary_files_leaves_a_live_servers_directory(pair):
    """However long it serves."""
    if not shutil.which("systemd-tmpfiles"):
        return "systemd-tmpfiles is not there"
    dead = pair.path("dead")
    os.mkdir(dead, 0o700)
    with open(os.path.join(dead, "ctl.lock"), "wb"):
        server = pair.server()
    for folder in (pair.run_dir, dead):
        for path in (*(os.path.join(folder, name) for name in os.listdir(folder)), folder):
            os.utime(path, (0, 0))
    with open(pair.path("old.conf"), "w", encoding="utf-8") as file:
        file.write(f"e {pair.work} - - - aAmM:1d\n")
    subprocess.run(["systemd-tmpfiles", "--clean", pair.path("old.conf")], check=False, timeout=WATCHDOG_S)
    if os.path.exists(dead):
        return "systemd-tmpfiles cleans nothing here"
    expect_serves(pair, server)
    assert os.path.exists(os.path.join(pair.run_dir, "ctl.lock")), os.listdir(pair.run_dir)
    pair.stop(server)
    return None


def server_of_a_replaced_directory_leaves_the_next_ones_files(pair):
    first = pair.server()
    shutil.rmtree(pair.run_dir)
    os.mkdir(pair.run_dir, 0o700)
    second = pair.server()
    before = sorted(os.listdir(pair.run_dir))
    pair.stop(first)
    assert sorted(os.listdir(pair.run_dir)) == before, os.listdir(pair.run_dir)
    expect_serves(pair, second)
    expect_refused(pair, pair.endpoint, f"pid {second.pid}")
    pair.stop(second)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)


def endpoint_is_one_by_every_spelling(pair):
    """Each spelling is served, and refused to a second server; airlock_stat finds the file by each."""
    parent = pair.path("parent")
    os.symlink(pair.work, parent)
    spellings = [f"ipc://{pair.work}/{path}/ctl" for path in ("run", "parent/run", "/run", "run/.", "run/../run")]
    server = pair.server(endpoint=spellings[1])
    for spelling in spellings:
        expect_refused(pair, spelling, f"pid {server.pid}")
        pair.runner(endpoint=spelling).expect_exit(0)
        pair.start("airlock_stat", "--endpoint", spelling).expect_exit(0)
    pair.stop(server)


def endpoint_is_one_through_another_mount(pair):
    """The server knows nothing of the client's path, as in a container."""
    if not can_mount():
        return "no mount namespace can be made"
    other = pair.path("elsewhere")
    os.mkdir(other, 0o700)
    mounts = f'mount --bind "{pair.run_dir}" "{other}"; mount -t tmpfs none "{pair.run_dir}"; exec "$@"'
    within = (*UNSHARED, mounts, "sh")
    server = pair.server()
    pair.runner(endpoint=f"ipc://{other}/ctl", within=within).expect_exit(0)
    second = second_server(pair, f"ipc://{other}/ctl", within=within).expect_exit(5)
    assert f"pid {server.pid}" in second.stderr(), second.stderr()
    pair.stop(server)
    return None


def directory_that_is_a_link_is_refused(pair):
    os.symlink(pair.run_dir, pair.path("link"))
    for spelling in ("link", "link/.", "link/"):
        endpoint = f"ipc://{pair.work}/{spelling}/ctl"
        for process in (second_server(pair, endpoint), pair.runner(endpoint=endpoint)):
            process.expect_exit(1)
            assert "is a link" in process.stderr(), process.stderr()


def runner_waits_for_a_server_whose_directory_is_still_missing(pair):
    endpoint = f"ipc://{pair.work}/later/ctl"
    runner = pair.runner("--timeout-ms", 60000, endpoint=endpoint)
    missing = pair.runner("--timeout-ms", 300, endpoint=endpoint).expect_exit(3)
    assert "later" in missing.stderr(), missing.stderr()
    assert runner.running(), runner.stderr()
    server = pair.server(endpoint=endpoint)
    runner.expect_exit(0)
    pair.stop(server)


def umask_takes_nothing_from_the_files(pair):
    """Nor gives anybody more."""
    for mask in ("0", "0177", "0777"):
        directory = pair.path("umask" + mask)
        endpoint = f"ipc://{directory}/ctl"
        server = pair.server(endpoint=endpoint, within=with_umask(mask))
        modes = {name: stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) for name in os.listdir(directory)}
        assert modes == {"ctl": 0o600, "ctl.lock": 0o600, "ctl.stats": 0o600}, modes
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700, directory
        pair.runner(endpoint=endpoint, within=with_umask(mask)).expect_exit(0)
        pair.stop(server)


def unusable_runtime_directory_is_named(pair):
    def refused(program, code, *words):
        process = pair.start(*program)
        process.expect_exit(code)
        for word in ("XDG_RUNTIME_DIR", pair.env["XDG_RUNTIME_DIR"], "--endpoint", *words):
            assert word in process.stderr(), process.stderr()

    server = ("gpu_server", "--synthetic", TINY, "--threads", 1)
    runner = ("tee_runner", "prefill", "--synthetic", TINY, "--tokens", 1, "--timeout-ms", 300)
    pair.env["XDG_RUNTIME_DIR"] = pair.path("gone")
    refused(server, 1, "does not exist")
    refused(runner, 3, "does not exist")
    with open(pair.path("file"), "wb"):
        pair.env["XDG_RUNTIME_DIR"] = pair.path("file")
    refused(server, 1, "not a directory")
    refused(runner, 1, "not a directory")
    if os.geteuid() == 0:
        os.mkdir(pair.path("theirs"), 0o700)
        os.chown(pair.path("theirs"), 12345, 12345)
        pair.env["XDG_RUNTIME_DIR"] = pair.path("theirs")
        refused(server, 1, "user 12345")
        refused(runner, 1, "user 12345")


def hangup_ends_both_in_order(pair):
    before = segments()
    server = pair.server()
    runner = under_way(pair, server, "--stats-json", pair.path("runner.json"))
    runner.signal(signal.SIGHUP)
    runner.expect_exit(3)
    assert os.path.exists(pair.path("runner.json")), "statistics are written"
    wait_until(lambda: " ended: " in server.stderr(), "the server was told", limit_s=5)
    server.signal(signal.SIGHUP)
    server.expect_exit(0)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)
    assert server.stats()["side"] == "gpu_server"
    assert not segments() - before, segments() - before


def hangup_under_nohup_is_ignored(pair):
    server = pair.server(within=("nohup",))
    runner = under_way(pair, server, within=("nohup",))
    for process in (server, runner):
        process.signal(signal.SIGHUP)
    expect_serves(pair, server)  # which takes longer than a signal that is not ignored
    await_work(pair, server, runner)
    runner.signal(signal.SIGINT)
    runner.expect_exit(3)
    pair.stop(server)


def read_only_dev_shm_is_said_at_start(pair):
    if not can_mount():
        return "no mount namespace can be made"
    within = (*UNSHARED, 'mount -t tmpfs -o ro none /dev/shm; exec "$@"', "sh")
    refused = second_server(pair, "tcp://127.0.0.1:0", "--ring", "on", within=within)
    refused.expect_exit(5)
    assert "/dev/shm" in refused.stderr() and "ead-only" in refused.stderr(), refused.stderr()
    assert "--ring off" in refused.stderr(), refused.stderr()
    # Rings over ipc, and those of airlock_xfer, have no files there.
    pair.stop(pair.server("--ring", "off", endpoint="tcp://127.0.0.1:0", within=within))
    pair.stop(pair.server(within=within))
    pair.start("airlock_xfer", "-b", 64, "-e", 64, within=within).expect_exit(0)
    return None


def small_dev_shm_is_said_at_start(pair):
    """Room for one session and not for all is a warning, none for one the end."""
    if not can_mount():
        return "no mount namespace can be made"

    def within(size):
        return (*UNSHARED, f'mount -t tmpfs -o size={size} none /dev/shm; exec "$@"', "sh")
    rings = ("--ring", "on", "--ring-slots", 8, "--ring-slot-bytes", "1M")
    server = pair.server(*rings, endpoint="tcp://127.0.0.1:0", within=within("40M"))
    said = server.stderr()
    for words in ("8 sessions (--max-clients)", "MiB of /dev/shm", "40.0 MiB are free", "--shm-size", "emptyDir", "remount,size="):
        assert words in said, (words, said)
    pair.stop(server)
    server = pair.server(*rings, "--max-clients", 2, endpoint="tcp://127.0.0.1:0", within=within("40M"))
    assert "/dev/shm" not in server.stderr(), server.stderr()
    pair.stop(server)
    refused = second_server(pair, "tcp://127.0.0.1:0", *rings, within=within("10M")).expect_exit(5)
    assert "too little room for 2 ring segments" in refused.stderr() and "--shm-size" in refused.stderr(), refused.stderr()
    return None


SCENARIOS = (
    endpoint_is_held_though_a_cleaner_removes_files,
    cleaner_of_temporary_files_leaves_a_live_servers_directory,
    server_of_a_replaced_directory_leaves_the_next_ones_files,
    endpoint_is_one_by_every_spelling,
    endpoint_is_one_through_another_mount,
    directory_that_is_a_link_is_refused,
    runner_waits_for_a_server_whose_directory_is_still_missing,
    umask_takes_nothing_from_the_files,
    unusable_runtime_directory_is_named,
    hangup_ends_both_in_order,
    hangup_under_nohup_is_ignored,
    read_only_dev_shm_is_said_at_start,
    small_dev_shm_is_said_at_start,
)
