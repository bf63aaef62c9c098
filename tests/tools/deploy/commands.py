"""The command lines of our programs that stand in deploy/: in the Containerfile, units, YAML, manifest and pages."""
import json
import os
import re
import shlex

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
DEPLOY = os.path.join(ROOT, "deploy")
CONTAINERFILE = os.path.join(DEPLOY, "containers", "Containerfile")
PROGRAMS = ("gpu_server", "tee_runner")
NO_RUN = ("cmake", "cp", "install", "podman", "docker")  # a line that begins so names a program without running it
IMAGE = re.compile(r"(?:localhost/)?airlock/(\w+):[\w.]+")


def read(*path):
    with open(os.path.join(DEPLOY, *path), encoding="utf-8") as file:
        return file.read()


def stages():
    """Name of each stage of the Containerfile -> its instructions, those of the stages that it stands on first."""
    made, name = {}, None
    for line in re.sub(r"\\\n(\s*#.*\n)*", " ", read("containers", "Containerfile")).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\w+)", rest).groups()
            made[name] = list(made.get(base, ()))
        elif name and word and word != "#":
            made[name].append((word, rest.strip()))
    return made


def last(instructions, word):
    found = [rest for name, rest in instructions if name == word]
    return found[-1] if found else None


def of_image(name, entrypoint=None, arguments=None):
    """What a container of our image runs: as Kubernetes and podman put it together."""
    instructions = stages()[name]
    command = entrypoint or json.loads(last(instructions, "ENTRYPOINT"))
    if arguments is None and entrypoint is None:
        arguments = json.loads(last(instructions, "CMD"))
    return [*command, *(arguments or ())]


def of_group(command):
    """What a member of a group runs of ours; None: nothing until it is asked."""
    if os.path.basename(command[0]) != "airlock_group":
        return command
    return ["gpu_server", *command[2:]] if command[1] == "lead" else None


def in_page(text):
    """The commands of a page's fenced lines, whole, with what runs them taken away."""
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for line in fenced.replace("\\\n", " ").splitlines():
        words = shlex.split(re.split(r"\s(?:[&|>]|2>|#)", line.strip())[0].removesuffix(" &"), comments=True)
        image = next((i for i, word in enumerate(words) if IMAGE.fullmatch(word)), None)
        if words[:2] in (["podman", "run"], ["docker", "run"]) and image is not None:
            yield of_group(of_image(IMAGE.fullmatch(words[image])[1], None, words[image + 1:] or None))
            continue
        ours = next((i for i, word in enumerate(words) if os.path.basename(word) in PROGRAMS), None)
        if ours is not None and len(words) > ours + 1 and words[0] not in NO_RUN:
            yield words[ours:]


def pages():
    for folder, _, names in os.walk(DEPLOY):
        for name in sorted(names):
            if name.endswith(".md"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    for command in filter(None, in_page(file.read())):
                        yield os.path.relpath(path, ROOT), command


def gramine():
    """The manifest as gramine-manifest renders it, with the variables that its first lines name."""
    text = read("gramine", "tee_runner.manifest.template")
    values = dict(re.findall(r"-D(\w+)=(\S+)", text))
    values |= {"gramine.libos": "/gramine/libsysdb.so", "gramine.runtimedir()": "/gramine/runtime",
               "model_digest": "0" * 64}
    rendered = re.sub(r"\{\{ (\S+) \}\}", lambda found: values[found[1]], text)
    assert "{%" not in rendered and "{{" not in rendered, "more of Jinja than is rendered here"
    return rendered


def units():
    for name in sorted(os.listdir(os.path.join(DEPLOY, "systemd"))):
        if name.endswith(".service"):
            yield name, read("systemd", name)


def option(command, name):
    """The value of an option, written as one word or as two; None where it is not there."""
    for index, word in enumerate(command):
        if word == name:
            return command[index + 1]
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return None
