"""The steps of gpu_check and the JSON that they leave. Python's standard library only."""
import json
import os
import signal
import subprocess
import sys
import time

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
TAIL_LINES = 25


class Failed(Exception):
    """A step that ran and found a fault; the text says which."""


class NotRun(Exception):
    """A step that could not run through no fault of what is checked; the text says why."""


def say(text):
    print(text, flush=True)


class Report:
    """Written anew after each step, so that a run that is cut short leaves what it had."""

    def __init__(self, path, head):
        self.path = path
        self.data = dict(head, result="unfinished", steps=[])

    def add(self, name, result, why, seconds, details):
        self.data["steps"].append({"name": name, "result": result, "why": why, "seconds": round(seconds, 1),
                                   "details": details or {}})
        self.write()
        say(f"-- {name}: {result} in {seconds:.1f} s" + (f": {why}" if why else ""))

    def result_of(self, name):
        """The result of a step, or None where it was not asked for."""
        return next((step["result"] for step in self.data["steps"] if step["name"] == name), None)

    def failed(self):
        return [step["name"] for step in self.data["steps"] if step["result"] == FAILED]

    def finish(self):
        self.data["result"] = FAILED if self.failed() else PASSED
        self.write()

    def write(self):
        if self.path is None:
            return
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        part = self.path + ".part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(self.data, file, indent=1)
            file.write("\n")
        os.replace(part, self.path)


def run_step(report, name, action):
    """Runs action() -> details; whatever it raises becomes the step's result."""
    say(f"\n== {name}")
    start, result, why, details = time.monotonic(), PASSED, "", None
    try:
        details = action()
    except NotRun as reason:
        result, why = NOT_RUN, str(reason)
    except Failed as fault:
        result, why = FAILED, str(fault)
    except Exception as fault:  # the other steps can still run
        result, why = FAILED, f"{type(fault).__name__}: {fault}"
    report.add(name, result, why, time.monotonic() - start, details)


def tail(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-TAIL_LINES:])


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(command, log, limit_s, env=None, cwd=None, stdout=None):
    """Runs a command with all of its output in `log` (stdout in a file of its own where named). Failed, with the end
    of the log printed, where it does not exit with 0 within the limit; what it started ends with it."""
    command = [str(part) for part in command]
    say("$ " + " ".join(command))
    with open(log, "wb") as file, open(stdout or os.devnull, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out if stdout else file, stderr=file, env=env,
                                   cwd=cwd, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            code = None
        except BaseException:
            kill_group(process)
            raise
    if code == 0:
        return
    sys.stdout.write(tail(log))
    what = f"did not end within {limit_s} s" if code is None else f"exit {code}"
    raise Failed(f"{os.path.basename(command[0])}: {what} (log: {log})")
