"""Streams that nobody reads: log, statistics and metrics hold up no session, no signal and no end."""
import fcntl
import os
import signal
import socket
import time

from pair import TINY, wait_until

PIPE_BYTES = 65536


def stuck_pipe():
    """The two ends of a pipe that is full: whoever writes there waits."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    try:
        while True:
            os.write(writes, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writes, True)
        return reads, writes


def stuck_fifo(pair):
    """A named pipe that is full, and the end that keeps it so."""
    path = pair.path("fifo")
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            os.write(end, b"x" * 4096)
    except BlockingIOError:
        return path, end


def server_args(pair):
    return "--synthetic", TINY, "--device", "cpu", "--endpoint", pair.endpoint, "--threads", 1


def expect_serves(pair):
    """Also the second and third time: each session logs two lines."""
    for _ in range(3):
        pair.runner("--timeout-ms", 30000).expect_exit(0)


def full_stderr_holds_up_no_server(pair):
    reads, writes = stuck_pipe()
    server = pair.start("gpu_server", *server_args(pair), stderr=writes)
    os.close(writes)
    wait_until(lambda: os.path.exists(pair.endpoint[len("ipc://"):]), "the server is there")
    expect_serves(pair)
    pair.stop(server)
    os.close(reads)


def stopped_terminal_holds_up_no_server(pair):
    try:
        screen, terminal = os.openpty()
    except OSError as error:
        return f"there are no terminals here (/dev/pts): {error}"
    os.write(screen, b"\x13")  # ^S
    server = pair.start("gpu_server", *server_args(pair), stderr=terminal)
    os.close(terminal)
    wait_until(lambda: os.path.exists(pair.endpoint[len("ipc://"):]), "the server is there")
    expect_serves(pair)
    os.write(screen, b"\x11")  # ^Q
    text = b""
    while text.count(b": tee_runner") < 3:
        text += os.read(screen, 4096)
    assert b"lost" not in text, text
    os.write(screen, b"\x13")
    expect_serves(pair)
    pair.stop(server)
    os.close(screen)


def full_stdout_holds_up_no_signal(pair):
    reads, writes = stuck_pipe()
    server = pair.start("gpu_server", *server_args(pair), "--stats-interval", 0.01, stdout=writes)
    os.close(writes)
    wait_until(lambda: os.path.exists(pair.endpoint[len("ipc://"):]), "the server is there")
    for _ in range(20):
        server.signal(signal.SIGUSR1)
    expect_serves(pair)
    pair.stop(server)
    os.close(reads)


def full_statistics_file_holds_up_no_end_of_a_server(pair):
    fifo, end = stuck_fifo(pair)
    server = pair.start("gpu_server", *server_args(pair), "--stats-json", fifo, "--stats-interval", 0.05)
    wait_until(lambda: os.path.exists(pair.endpoint[len("ipc://"):]), "the server is there")
    expect_serves(pair)
    server.signal(signal.SIGUSR1)
    time.sleep(0.5)
    server.signal(signal.SIGTERM)
    server.expect_exit(1, limit_s=15)  # the statistics are not written, and that is said
    assert fifo in server.stderr(), server.stderr()
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)
    os.close(end)


def full_statistics_file_holds_up_no_end_of_a_runner(pair):
    """SIGUSR1 before the end, or the end of the run: either begins to write where nothing is taken."""
    server = pair.server()
    fifo, end = stuck_fifo(pair)
    for result_is_read in (False, True):
        reads, writes = stuck_pipe()
        runner = pair.start("tee_runner", "prefill", "--synthetic", TINY, "--endpoint", server.endpoint, "--random-tokens", 8,
                            "--seed", 1, "--threads", 1, "--stats-json", fifo, **({} if result_is_read else {"stdout": writes}))
        os.close(writes)
        time.sleep(1)
        runner.signal(signal.SIGUSR1)
        time.sleep(0.5)
        assert runner.running(), "it ended without its statistics"
        runner.signal(signal.SIGTERM)
        runner.expect_exit(3, limit_s=10)
        os.close(reads)
    os.close(end)
    pair.stop(server)


def what_waited_for_a_reader_is_read_at_last(pair):
    reads, writes = stuck_pipe()
    fcntl.fcntl(reads, fcntl.F_SETFL, os.O_NONBLOCK)
    server = pair.start("gpu_server", *server_args(pair), stderr=writes)
    os.close(writes)
    wait_until(lambda: os.path.exists(pair.endpoint[len("ipc://"):]), "the server is there")
    expect_serves(pair)
    text = b""

    def read_on():
        nonlocal text
        try:
            text += os.read(reads, PIPE_BYTES)
        except BlockingIOError:
            pass
        return text.count(b": tee_runner") >= 3

    wait_until(read_on, "the lines of three sessions")
    pair.stop(server)
    lines = text[text.rindex(b"xx") + 2:].decode().splitlines()
    assert all(line.startswith("gpu_server: ") for line in lines), lines
    assert "lost" not in text.decode(), text


def full_stderr_holds_up_no_runner(pair):
    server = pair.server()
    for streams in ("stderr", "stdout"):
        reads, writes = stuck_pipe()
        runner = pair.start("tee_runner", "prefill", "--synthetic", TINY, "--endpoint", server.endpoint,
                       "--random-tokens", 8, "--seed", 1, "--threads", 1, **{streams: writes})
        os.close(writes)
        if streams == "stdout":  # its result waits there; what nobody takes for so long a signal ends
            time.sleep(1)
            assert runner.running(), "it ended without its result"
            runner.signal(signal.SIGTERM)
            runner.expect_exit(3)
        else:
            runner.expect_exit(0)
        os.close(reads)
    pair.stop(server)


def metrics_are_served_beside_silent_clients(pair):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = pair.server("--metrics", f"127.0.0.1:{port}")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for method in ("GET", "HEAD") * 10:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = b"".join(iter(lambda c=client: c.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
        head, body = answer.split(b"\r\n\r\n", 1)
        assert (b"airlock_sessions_total" in body) == (method == "GET"), answer
        assert b"Content-Length: " in head, head
        silent.append(socket.create_connection(("127.0.0.1", port)))
    pair.stop(server)
    for each in silent:
        each.close()


SCENARIOS = (
    full_stderr_holds_up_no_server,
    stopped_terminal_holds_up_no_server,
    full_stdout_holds_up_no_signal,
    full_statistics_file_holds_up_no_end_of_a_server,
    full_statistics_file_holds_up_no_end_of_a_runner,
    what_waited_for_a_reader_is_read_at_last,
    full_stderr_holds_up_no_runner,
    metrics_are_served_beside_silent_clients,
)
