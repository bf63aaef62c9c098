#!/usr/bin/env python3
"""airlock_stat and --metrics with real servers. One scenario a run: stat_test.py --bin-dir DIR SCENARIO; --list.

Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import json
import os
import re
import resource
import signal
import socket
import sys
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path[:0] = [os.path.join(ROOT, "tests", "integration"), os.path.join(ROOT, "tools")]
import scenarios  # noqa: E402
from pair import Pair, read_json, wait_until  # noqa: E402

DASHBOARD = os.path.join(ROOT, "tools", "grafana", "airlock.json")
ENDED, NO_SERVER, USAGE, IN_USE = 0, 3, 2, 5


def stat(pair, *args, endpoint=None, code=ENDED):
    """The end of one airlock_stat."""
    return pair.start("airlock_stat", "--endpoint", endpoint or pair.endpoint, *args).expect_exit(code)


def stat_json(pair, endpoint=None, code=ENDED):
    return json.loads(stat(pair, "-o", "json", endpoint=endpoint, code=code).stdout())


def counted(pair, server):
    """What the server writes at SIGUSR1, once it has written anew."""
    before = server.stdout().count("gpu_server: ")
    server.signal(signal.SIGUSR1)
    wait_until(lambda: server.stdout().count("gpu_server: ") > before, "statistics at SIGUSR1")
    found = []

    def written():  # the file follows the text
        found[:] = [server.stats()] if os.path.exists(server_file(server)) else []
        return found and found[0]["wall_ns"] / 1e9 >= last_wall_s(server) - 0.001
    wait_until(written, "the statistics file")
    return found[0]


def server_file(server):
    return server.command[server.command.index("--stats-json") + 1]


def last_wall_s(server):
    return float(re.findall(r"^gpu_server: ([0-9.]+) s on", server.stdout(), re.M)[-1])


def wait_for_no_session(pair, begun, endpoint=None):
    wait_until(lambda: (live := stat_json(pair, endpoint)["live"])["sessions_active"] == 0 and
               live["sessions_started"] == begun, "all sessions ended")


def scrape(server):
    """name{labels} -> value of what /metrics serves; the type of each family."""
    url = re.search(r"metrics at (\S+)", server.stderr()).group(1)
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain"), answer.headers
        text = answer.read().decode()
    values, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"{name} twice"
            types[name] = kind
        elif not line.startswith("#"):
            match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)", line)
            assert match, line
            key = match.group(1) + (match.group(2) or "")
            assert key not in values, f"{key} twice"
            values[key] = float(match.group(3))
    return values, types


def figures_are_the_servers_own(pair):
    server = pair.server()
    for _ in range(2):
        pair.runner().expect_exit(0)
    wait_for_no_session(pair, 2)
    own = counted(pair, server)
    seen = stat_json(pair)
    for key in ("schema_version", "side", "host", "config", "paths", "ops"):
        assert seen[key] == own[key], f"{key}: {seen[key]} and {own[key]}"
    assert sum(s["sessions"] for s in seen["sessions"]) == len(own["sessions"]) == 2
    live = seen["live"]
    assert live["state"] == "serving" and live["pid"] == server.pid and live["settled"], live
    table = stat(pair).stdout()
    assert f"pid {server.pid} at {pair.endpoint}" in table and "batch_linear" in table, table
    pair.stop(server)


def one_session_is_the_servers_whole_report(pair):
    server = pair.server()
    pair.runner().expect_exit(0)
    wait_for_no_session(pair, 1)
    own, seen = counted(pair, server), stat_json(pair)
    del seen["live"], seen["wall_ns"], own["wall_ns"]
    assert seen == own
    pair.stop(server)


def sessions_under_way_are_seen(pair):
    server = pair.server()
    runner = pair.runner("--repeat", 100000)
    wait_until(lambda: (seen := stat_json(pair))["live"]["sessions_active"] == 1 and
               seen["sessions"][0]["ops"]["matmul"]["calls"] > 0, "a session that computes")
    first = stat_json(pair)["ops"]["matmul"]["calls"]
    wait_until(lambda: stat_json(pair)["ops"]["matmul"]["calls"] > first, "more calls")
    runner.signal(signal.SIGTERM)
    runner.exit_code()
    pair.stop(server)


def stopped_server_is_explained(pair):
    server = pair.server()
    pair.runner().expect_exit(0)
    wait_for_no_session(pair, 1)
    server.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: stat_json(pair)["live"]["state"] == "silent", "no sign of life")
        seen = stat_json(pair)
        assert seen["ops"]["lm_head"]["calls"] == 1, seen
        assert "hangs or was stopped: last sign" in stat(pair).stdout()
    finally:
        server.signal(signal.SIGCONT)
    wait_until(lambda: stat_json(pair)["live"]["state"] == "serving", "signs of life again")
    pair.stop(server)


def killed_server_is_explained_and_replaced(pair):
    server = pair.server()
    pair.runner().expect_exit(0)
    wait_for_no_session(pair, 1)
    server.signal(signal.SIGKILL)
    server.exit_code()
    ended = stat(pair, code=NO_SERVER)
    assert "ended without cleaning up" in ended.stdout() and "lm_head" in ended.stdout()
    assert str(server.pid) in ended.stderr()
    assert stat_json(pair, code=NO_SERVER)["live"]["state"] == "ended"
    second = pair.server()
    seen = stat_json(pair)
    assert seen["live"]["pid"] == second.pid and seen["ops"]["lm_head"]["calls"] == 0, seen
    pair.stop(second)
    gone = stat(pair, code=NO_SERVER)
    assert "no server at" in gone.stderr() and "Start gpu_server" in gone.stderr(), gone.stderr()


def file_is_gone_after_the_server(pair):
    server = pair.server()
    path = os.path.join(pair.run_dir, "ctl.stats")
    assert os.stat(path).st_mode & 0o7777 == 0o600
    pair.stop(server)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)


def server_that_cannot_make_its_file_serves_on(pair):
    os.mkdir(os.path.join(pair.run_dir, "ctl.stats"), 0o700)
    server = pair.server()
    assert "no counters file" in server.stderr(), server.stderr()
    pair.runner().expect_exit(0)
    pair.stop(server)
    assert server.stats()["ops"]["lm_head"]["calls"] == 1


def file_of_a_user_stays(pair):
    path = os.path.join(pair.run_dir, "ctl.stats")
    with open(path, "w", encoding="utf-8") as file:
        file.write("my notes")
    server = pair.server()
    assert server.stderr().count("in the way") == 1, server.stderr()
    pair.runner().expect_exit(0)
    pair.stop(server)
    assert server.stats()["ops"]["lm_head"]["calls"] == 1
    with open(path, encoding="utf-8") as file:
        assert file.read() == "my notes"


def file_cut_short_costs_the_figures_only(pair):
    server = pair.server()
    path = os.path.join(pair.run_dir, "ctl.stats")
    os.truncate(path, 0)
    wait_until(lambda: "cut short" in server.stderr() or not server.running(), "the warning")
    for _ in range(2):
        pair.runner().expect_exit(0)
    pair.stop(server)
    assert server.stderr().count("cut short") == 1, server.stderr()
    assert not os.path.exists(path)


def file_size_limit_is_no_signal(pair):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old[1]))
    try:
        server = pair.server()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "no counters file" in server.stderr(), server.stderr()
    server.signal(signal.SIGTERM)
    assert server.exit_code() >= 0


def next_server_removes_a_dead_ones_figures_at_once(pair):
    server = pair.server()
    server.signal(signal.SIGKILL)
    server.exit_code()
    path = os.path.join(pair.run_dir, "ctl.stats")
    assert os.path.exists(path)
    pair.start("gpu_server", "--model", pair.path("none"), "--endpoint", pair.endpoint).expect_exit(1)
    assert not os.path.exists(path)


def dead_tcp_server_shadows_no_other(pair):
    pair.env["XDG_RUNTIME_DIR"] = pair.run_dir
    first = pair.server(endpoint="tcp://127.0.0.1:0")
    port = first.endpoint.rpartition(":")[2]
    path = os.path.join(pair.run_dir, "airlock", f"tcp-{port}.stats")
    first.signal(signal.SIGKILL)
    first.exit_code()
    assert stat_json(pair, first.endpoint, code=NO_SERVER)["live"]["state"] == "ended"
    elsewhere = pair.path("elsewhere")
    os.mkdir(elsewhere, 0o700)
    pair.env["XDG_RUNTIME_DIR"] = elsewhere  # its file lies where airlock_stat does not look
    second = pair.server(endpoint=first.endpoint)
    pair.env["XDG_RUNTIME_DIR"] = pair.run_dir
    assert stat_json(pair, first.endpoint)["live"] == {"scope": "own session"}
    pair.stop(second)
    third = pair.server()  # any server sweeps
    assert not os.path.exists(path)
    pair.stop(third)


def watch_over_its_own_session_ends_at_a_signal(pair):
    pair.env["XDG_RUNTIME_DIR"] = pair.run_dir
    server = pair.server(endpoint="tcp://127.0.0.1:0")
    port = server.endpoint.rpartition(":")[2]
    os.unlink(os.path.join(pair.run_dir, "airlock", f"tcp-{port}.stats"))
    for number in (signal.SIGINT, signal.SIGTERM):
        watch = pair.start("airlock_stat", "--endpoint", server.endpoint, "--watch", "0.02", "-o", "json")
        wait_until(lambda w=watch: w.stdout().count("\n") >= 2, "two lines")
        watch.signal(number)
        watch.expect_exit(ENDED)
    pair.stop(server)
    clients = [session["client"] for session in server.stats()["sessions"]]
    assert all(client.startswith("airlock_stat pid ") for client in clients), clients


def tcp_server_is_read_and_asked(pair):
    pair.env["XDG_RUNTIME_DIR"] = pair.run_dir
    server = pair.server(endpoint="tcp://127.0.0.1:0")
    port = server.endpoint.rpartition(":")[2]
    path = os.path.join(pair.run_dir, "airlock", f"tcp-{port}.stats")
    pair.runner(endpoint=server.endpoint).expect_exit(0)
    wait_for_no_session(pair, 1, server.endpoint)
    assert stat_json(pair, server.endpoint)["ops"]["lm_head"]["calls"] == 1
    assert stat_json(pair, f"tcp://localhost:{port}")["live"]["scope"] == "server"
    os.rename(path, path + ".away")  # as from another machine
    asked = stat(pair, endpoint=server.endpoint).stdout()
    assert "that session's figures only" in asked, asked
    assert stat_json(pair, server.endpoint)["live"] == {"scope": "own session"}
    os.rename(path + ".away", path)
    pair.stop(server)
    assert not os.path.exists(path)
    stat(pair, "--timeout-ms", 200, endpoint=server.endpoint, code=NO_SERVER)


def watch_ends_at_a_signal_and_with_the_server(pair):
    server = pair.server()
    for number in (signal.SIGINT, signal.SIGTERM):
        watch = pair.start("airlock_stat", "--endpoint", pair.endpoint, "--watch", "0.02", "-o", "json")
        wait_until(lambda w=watch: w.stdout().count("\n") >= 3, "three lines")
        watch.signal(number)
        watch.expect_exit(ENDED)
        assert all(json.loads(line)["live"]["pid"] == server.pid for line in watch.stdout().splitlines())
    watch = pair.start("airlock_stat", "--endpoint", pair.endpoint, "--watch", "0.02")
    wait_until(lambda: watch.stdout().count("gpu_server pid") >= 2, "two tables")
    pair.stop(server)
    watch.expect_exit(ENDED)
    assert "has ended" in watch.stderr() and "\x1b" not in watch.stdout()
    server = pair.server()
    watch = pair.start("airlock_stat", "--endpoint", pair.endpoint, "--watch", "0.02")
    wait_until(lambda: watch.stdout().count("gpu_server pid") >= 2, "two tables")
    server.signal(signal.SIGKILL)
    watch.expect_exit(NO_SERVER)


def metrics_are_the_statistics(pair):
    server = pair.server("--metrics", "127.0.0.1:0")
    for _ in range(2):
        pair.runner().expect_exit(0)
    wait_for_no_session(pair, 2)
    own, (values, types) = counted(pair, server), scrape(server)
    for path, figures in own["paths"].items():
        for direction in ("sent", "received"):
            labels = f'{{path="{path}",direction="{direction}"}}'
            for unit, count in figures[direction].items():
                assert values[f"airlock_transport_{unit}_total{labels}"] == count, (labels, unit)
        for name in ("errors", "slot_waits", "spins", "parks"):
            assert values[f'airlock_transport_{name}_total{{path="{path}"}}'] == figures[name], name
    for op, figures in own["ops"].items():
        assert values[f'airlock_op_calls_total{{op="{op}"}}'] == figures["calls"]
        for part, key in (("queue", "queue_ns"), ("compute", "server_ns"), ("wire", "wire_ns")):
            got = values[f'airlock_op_seconds_total{{op="{op}",part="{part}"}}']
            assert abs(got - figures[key] / 1e9) < 1e-9, (op, part, got)
        for part in ("copy_in", "compute", "copy_out"):
            got = values[f'airlock_op_device_seconds_total{{op="{op}",part="{part}"}}']
            assert abs(got - figures.get("device", {}).get(part + "_ns", 0) / 1e9) < 1e-9, (op, part, got)
        check_histogram(values, op, figures)
    assert values["airlock_sessions"] == 0 and values["airlock_sessions_total"] == 2
    assert values["airlock_sessions_limit"] == 8 and values["airlock_sessions_refused_total"] == 0
    info, = (key for key in values if key.startswith("airlock_build_info{"))
    assert 'device="cpu"' in info and 'protocol="' in info and values[info] == 1
    for name, kind in types.items():
        assert (kind == "counter") == name.endswith("_total"), (name, kind)
    known = {"path", "direction", "op", "part", "le", "version", "protocol", "device", "dtype", "quantile"}
    for key in values:
        assert set(re.findall(r'(\w+)="', key)) <= known, key
    pair.stop(server)


def check_histogram(values, op, figures):
    name = "airlock_op_service_seconds"
    assert values[f'{name}_count{{op="{op}"}}'] == figures["calls"]
    assert abs(values[f'{name}_sum{{op="{op}"}}'] - figures["total_ns"] / 1e9) < 1e-9
    buckets = [(float(match.group(1).replace("+Inf", "inf")), value) for key, value in values.items()
               if (match := re.fullmatch(rf'{name}_bucket{{op="{op}",le="(.*)"}}', key))]
    assert buckets == sorted(buckets) and buckets[-1] == (float("inf"), figures["calls"]), buckets
    assert [count for _, count in buckets] == sorted(count for _, count in buckets), buckets


def metrics_address_is_checked(pair):
    def refused(address, code, word):
        server = pair.start("gpu_server", "--synthetic", os.path.join(ROOT, "tests/data/configs/tiny.json"),
                            "--endpoint", pair.endpoint, "--metrics", address).expect_exit(code)
        assert word in server.stderr(), server.stderr()
    for address in ("9464", "127.0.0.1", "name:9464", "127.0.0.1:99999", "127.0.0.1:0,8080"):
        refused(address, USAGE, "HOST:PORT")
    refused("0.0.0.0:0", USAGE, "--insecure-tcp")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(f"127.0.0.1:{taken.getsockname()[1]}", IN_USE, "in use")
    assert os.listdir(pair.run_dir) == []


def dashboard_names_only_what_is_served(pair):
    server = pair.server("--metrics", "127.0.0.1:0")
    values, types = scrape(server)
    pair.stop(server)
    served = {key.partition("{")[0] for key in values}
    labels = {}
    for key in values:
        name = key.partition("{")[0]
        labels.setdefault(name, {"instance"}).update(re.findall(r'(\w+)="', key))
    board = read_json(DASHBOARD)
    assert board["schemaVersion"] >= 36 and board["title"] and board["uid"]
    assert "datasource" in [v["name"] for v in board["templating"]["list"] if v["type"] == "datasource"]
    exprs = [t["expr"] for p in board["panels"] for t in p["targets"]]
    exprs += [v["definition"] for v in board["templating"]["list"] if "definition" in v]
    used = set()
    for expr in exprs:
        names = set(re.findall(r"\b(?:airlock|process)_\w+", expr))
        assert names and names <= served, (expr, names - served)
        used |= names
        grouped = re.search(r"by \(([^)]*)\)", expr)
        for name in names if grouped else ():
            assert set(re.split(r",\s*", grouped.group(1))) <= labels[name], expr
    families = {name for name in types if name.startswith("airlock_")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert families <= shown, f"not on the dashboard: {families - shown}"
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}" and panel["title"] and panel["description"]


SCENARIOS = (
    figures_are_the_servers_own, one_session_is_the_servers_whole_report, sessions_under_way_are_seen,
    stopped_server_is_explained, killed_server_is_explained_and_replaced, file_is_gone_after_the_server,
    server_that_cannot_make_its_file_serves_on, file_of_a_user_stays, file_cut_short_costs_the_figures_only,
    file_size_limit_is_no_signal, next_server_removes_a_dead_ones_figures_at_once, dead_tcp_server_shadows_no_other,
    watch_over_its_own_session_ends_at_a_signal, tcp_server_is_read_and_asked,
    watch_ends_at_a_signal_and_with_the_server, metrics_are_the_statistics, metrics_address_is_checked,
    dashboard_names_only_what_is_served)


if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Pair(args.bin_dir, work),
                   scenarios.programs("gpu_server", "tee_runner", "airlock_stat"))
