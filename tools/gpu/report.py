"""How gpu_check runs its steps: within a budget of time, with a JSON that grows as they go."""
import json
import os
import signal
import subprocess
import sys
import time

from pair import read_text

PASSED, FAILED, CUT, NOT_RUN = "passed", "failed", "cut", "not run"
TAIL_LINES = 25
PROGRESS_S = 10


class Failed(Exception):
    """A step that ran and found a fault; the text says which."""


class NotRun(Exception):
    """A step that could not run through no fault of what is checked; the text says why."""


def say(text):
    print(text, flush=True)


class Budget:
    """The time of the whole check and, within it, of the step under way. Seconds."""

    def __init__(self, total_s):
        self.total_s = total_s
        self.end = self.step_end = time.monotonic() + total_s

    def begin_step(self, limit_s):
        self.step_end = min(self.end, time.monotonic() + limit_s)

    def left(self):
        """What the step under way has left."""
        return max(0.0, self.step_end - time.monotonic())

    def used_up(self):
        return time.monotonic() >= self.end


class Report:
    """Written anew whenever a step begins, has a result to add, or ends: a run that is killed leaves what it had."""

    def __init__(self, path, head):
        self.path = path
        self.data = dict(head, result="unfinished", steps=[])

    def run_step(self, name, function, context, limit_s):
        """Runs function(context, details), which fills the details as it goes; whatever it raises becomes the step's
        result."""
        start, budget = time.monotonic(), context.budget
        budget.begin_step(limit_s)
        say(f"\n== {name} (at most {budget.left():.0f} s)")
        step = {"name": name, "result": CUT, "why": "the check was ended", "seconds": 0, "details": {}}
        self.data["steps"].append(step)
        self.write()
        try:
            if budget.used_up():
                raise Failed(f"the budget of {budget.total_s:g} s was used up before it began")
            function(context, step["details"])
            step.update(result=PASSED, why="")
        except NotRun as reason:
            step.update(result=NOT_RUN, why=str(reason))
        except Exception as fault:  # the other steps can still run
            why = str(fault) if isinstance(fault, Failed) else f"{type(fault).__name__}: {fault}"
            step.update(result=CUT if budget.used_up() else FAILED, why=why)
        finally:
            step["seconds"] = round(time.monotonic() - start, 1)
            self.write()
            say(f"-- {name}: {step['result']} in {step['seconds']} s" + (f": {step['why']}" if step["why"] else ""))

    def having(self, *results):
        """Names of the steps that ended so."""
        return [step["name"] for step in self.data["steps"] if step["result"] in results]

    def finish(self):
        self.data["result"] = FAILED if self.having(FAILED) else CUT if self.having(CUT) else PASSED
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


def last_lines(path, count):
    return "".join(read_text(path).splitlines(keepends=True)[-count:])


def wait(process, what, budget, log):
    """The exit code of a process; Failed where the step's time ends before it. Says every few seconds how far it is."""
    start, limit_s = time.monotonic(), budget.left()
    while True:
        try:
            return process.wait(min(PROGRESS_S, budget.left()))
        except subprocess.TimeoutExpired:
            if budget.left() == 0:
                raise Failed(f"{what}: did not end within {limit_s:.0f} s (log: {log})") from None
            said = last_lines(log, 1).strip()[:120]
            say(f"   {what}: {time.monotonic() - start:.0f} s so far, at most {limit_s:.0f} s; {said}")


def run(command, log, budget, env=None, stdout=None):
    """Runs a command with all of its output in `log` (stdout in a file of its own where named). Failed, with the end of
    the log printed, where it does not exit with 0 in time; what it started ends with it."""
    command = [str(part) for part in command]
    name = os.path.basename(command[0])
    say("$ " + " ".join(command))
    with open(log, "wb") as file, open(stdout or os.devnull, "wb") as out:
        # A SIGTERM that comes while the program starts waits until there is somebody to end.
        told = []
        handler = signal.signal(signal.SIGTERM, lambda *_: told.append(True))
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out if stdout else file, stderr=file,
                                       env=env, start_new_session=True)
        except OSError:
            signal.signal(signal.SIGTERM, handler)
            raise
        try:
            signal.signal(signal.SIGTERM, handler)
            if told:
                os.kill(os.getpid(), signal.SIGTERM)
            code = wait(process, name, budget, log)
            if code != 0:
                raise Failed(f"{name}: exit {code} (log: {log})")
        except Failed:
            sys.stdout.write(last_lines(log, TAIL_LINES))
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
