#!/usr/bin/env python3
"""What deploy/ has is what the programs, systemd and Kubernetes take; without a cluster, an engine or a network. One
scenario a run: deploy_test.py --bin-dir DIR SCENARIO; --list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import base64
import importlib.util
import os
import re
import shlex
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tomllib
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
import commands  # noqa: E402 (found by the lines above)
from one_scenario import Skip, main  # noqa: E402
from pair import TINY, open_pair, read_text, wait_until  # noqa: E402
from tiny_model import write_model, write_tokenizer  # noqa: E402

LIMIT_S = 60
MAKE_KEYS = os.path.join(ROOT, "deploy", "kubernetes", "make_keys")
PATHS = {"/healthz", "/readyz"}  # that probes ask for; probes_find_what_they_ask_for asks the programs for them


def manifests():
    """The module, which needs PyYAML; another Python of this machine may have it."""
    if importlib.util.find_spec("yaml") is None:
        other = "/usr/bin/python3"
        has_it = os.path.realpath(sys.executable) != os.path.realpath(other) and subprocess.run(
            [other, "-c", "import yaml, tomllib"], capture_output=True, check=False).returncode == 0
        if not has_it:
            raise Skip("no PyYAML here: tools/install_deps brings python3-yaml")
        os.execv(other, [other, "-B", *sys.argv])
    return importlib.import_module("manifests")


def run(*command, **options):
    return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=LIMIT_S, check=False, **options)


def keys(work, bin_dir):
    """The folder that make_keys makes, and the objects in its secrets.yaml by kind and name."""
    for tool in ("openssl", "ssh-keygen"):
        if shutil.which(tool) is None:
            raise Skip(f"no {tool} here, which make_keys needs")
    module, folder = manifests(), os.path.join(work, "made keys")
    done = run(MAKE_KEYS, bin_dir, folder, "airlock", "airlock.example")
    assert done.returncode == 0, done
    again = run(MAKE_KEYS, bin_dir, folder)
    assert again.returncode == 1, "keys that were there were replaced"
    return folder, {module.identity(item): item for item in module.documents(os.path.join(folder, "secrets.yaml"))}


def command_lines():
    """(where it stands, command) of each of our programs' command lines in deploy/."""
    module = manifests()
    for target in ("gpu_server", "tee_runner"):
        yield f"Containerfile {target}", commands.of_image(target)
    for name, text in commands.units():
        yield name, shlex.split(re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1].replace("$AIRLOCK_OPTIONS", ""))
    yield "tee_runner.manifest.template", ["tee_runner", *tomllib.loads(commands.gramine())["loader"]["argv"][2:]]
    yield from commands.pages()
    for variant in module.VARIANTS:
        for item in module.build(os.path.join(module.FOLDER, variant)):
            for name, template in module.pod_templates(item):
                for container in module.containers(template):
                    image = commands.IMAGE.fullmatch(container["image"])[1]
                    command = commands.of_group(
                        commands.of_image(image, container.get("command"), container.get("args")))
                    if command and os.path.basename(command[0]) in commands.PROGRAMS:
                        yield f"{variant}: {name} {container['name']}", command


def elsewhere(word, work):
    """The same word with all paths below `work`, where nothing is, and no port taken."""
    word = word.replace("$(POD_INDEX)", "0").replace("HEX", "0" * 64)
    if word.startswith("/"):
        return work + word
    word = re.sub(r"(=|ipc://)/", rf"\1{work}/", word)
    return re.sub(r"^((?:--metrics=)?127\.0\.0\.1):9464$", r"\1:0", word)


def the_programs_take_every_command_line(work, bin_dir):
    found = list(command_lines())
    assert len({where.split(":")[0] for where, _ in found}) >= 10, found  # nothing was overlooked
    for where, command in found:
        program = os.path.join(bin_dir, os.path.basename(command[0]))
        words = [elsewhere(word, work) for word in command[1:]]
        done = run(program, *words, cwd=work)
        # Its arguments were understood; the first file that it opened is not there.
        missing = work in done.stderr or "No such file" in done.stderr
        assert done.returncode == 1 and missing, (where, command, done.returncode, done.stderr)
        assert run(program, *words, "--no-such-option").returncode == 2, (where, command)


def kustomizations_are_whole(_, __):
    module = manifests()
    read = set()
    for variant in module.VARIANTS:
        made = module.build(os.path.join(module.FOLDER, variant), read)
        names = [module.identity(item) for item in made]
        assert len(names) == len(set(names)), f"{variant}: an object stands twice: {names}"
        if shutil.which("kubectl") is None:
            continue
        done = run("kubectl", "kustomize", os.path.join(module.FOLDER, variant))
        assert done.returncode == 0, done
        theirs = {module.identity(item): item for item in module.yaml.safe_load_all(done.stdout)}
        assert theirs == {module.identity(item): item for item in made}, f"{variant}: kubectl reads something else"
    for folder, _, files in os.walk(module.FOLDER):
        for name in files:
            path = os.path.realpath(os.path.join(folder, name))
            if name.endswith(".yaml") and name != "kustomization.yaml":
                assert path in read, f"{path} belongs to no kustomization"
    if shutil.which("kubectl") is None:
        raise Skip("all of it but for kubectl's own reading: no kubectl here")


def objects_fit_their_schemas(work, bin_dir):
    module = manifests()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    wheel = os.path.join(cache, "airlock", "kubernetes", "kubernetes_validate-1.37.0-py3-none-any.whl")
    items = [item for variant in module.VARIANTS for item in module.build(os.path.join(module.FOLDER, variant))]
    for item in (item for item in items if item["kind"] == "LeaderWorkerSet"):
        faults = module.faults_of_leader_worker_set(item)
        assert not faults, faults
    if not os.path.exists(wheel):
        raise Skip("no schemas in the cache: run tools/fetch_kubernetes_schemas")
    items += keys(work, bin_dir)[1].values()
    items += [{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
              for item in items if item["kind"] == "LeaderWorkerSet" for _, template in module.pod_templates(item)]
    checked = 0
    for version, schemas in module.Schemas.versions(wheel):
        for item in items:
            if item["kind"] == "LeaderWorkerSet":
                continue
            faults = schemas.faults(item)
            assert not faults, (version, module.identity(item), faults)
            checked += 1
        # It does find what is wrong.
        bad = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
               "spec": {"containers": [{"name": 1, "image": "i", "ports": [{}], "comand": ["x"]}]}}
        faults = schemas.faults(bad)
        assert len(faults) == 3, faults
    print(f"{checked} objects held against schemas")
    assert checked > 100


def seconds(command, name):
    return float(commands.option(command, name) or 0)


def check_grace(where, template, command_of):
    """A pod's grace is longer than its programs may take to end."""
    grace = template["spec"]["terminationGracePeriodSeconds"]
    for container in template["spec"]["containers"]:
        before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        assert not before or before[1] == "drained", f"{where}: what is {before}?"
        takes = seconds(command_of(container) or [], "--drain-seconds") + (float(before[2]) if before else 0)
        assert 0 < takes + 5 <= grace, f"{where} {container['name']}: {takes} s and {grace} s of grace"


def check_probes(where, container, command):
    ports = {port["name"] for port in container["ports"]} if "ports" in container else set()
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container[kind]
        if "httpGet" in probe:
            assert probe["httpGet"]["path"] in PATHS and probe["httpGet"]["port"] in ports, (where, probe)
            has_tls = commands.option(command, "--tls-cert") is not None
            assert (probe["httpGet"]["scheme"] == "HTTPS") == has_tls, where
        elif "exec" in probe:
            program, port, path = probe["exec"]["command"]
            assert program == "/usr/local/bin/airlock_probe" and path in PATHS, (where, probe)
            assert commands.option(command, "--metrics") == f"127.0.0.1:{port}", (where, probe)
        else:
            assert probe["tcpSocket"]["port"] in ports, (where, probe)
    patience = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
    assert patience >= 120, f"{where}: {patience} s to start"


def check_files(where, template, container, command, stored):
    """What a container opens is in what it mounts: keys of Secrets that the first one copied, or of the ConfigMap."""
    spec, mounts = template["spec"], {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in mounts.values():
        assert mount["name"] in volumes, f"{where}: no volume {mount['name']}"
        if "secret" in (volume := volumes[mount["name"]]) or "projected" in volume:
            assert volume.get("projected", volume.get("secret"))["defaultMode"] == 0o440, f"{where}: {volume}"
    copied = spec["initContainers"][0]["command"]
    there = {os.path.join("/keys", os.path.basename(path)) for path in copied[5:]}
    volume = volumes["secret"]
    secrets = ([volume["secret"]["secretName"]] if "secret" in volume
               else [source["secret"]["name"] for source in volume["projected"]["sources"]])
    held = {key for name in secrets for key in stored["Secret", name]["data"]}
    assert {os.path.basename(path) for path in copied[5:]} == held, f"{where}: {copied} of {held}"
    if "/public" in mounts:
        there |= {f"/public/{key}" for key in stored["ConfigMap", volumes["public"]["configMap"]["name"]]["data"]}
    for word in command or ():
        path = word.rpartition("=")[2]
        if path.startswith(("/keys/", "/public/")):
            assert path in there, f"{where}: {path} is not there"
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    known = {"/var/cache/airlock", "/run/airlock", "/dev/shm", "/tmp"}
    assert {"/var/cache/airlock"} <= writable <= known, (where, writable)


def pods_hang_together(work, bin_dir):
    module, (_, stored) = manifests(), keys(work, bin_dir)
    for variant in module.VARIANTS:
        items = module.build(os.path.join(module.FOLDER, variant))
        templates = [pair for item in items for pair in module.pod_templates(item)]

        def command_of(container):
            image = commands.IMAGE.fullmatch(container["image"])[1]
            return commands.of_group(commands.of_image(image, container.get("command"), container.get("args")))

        for where, template in templates:
            where = f"{variant} {where}"
            pod = template["spec"]["securityContext"]
            assert pod["runAsNonRoot"] and pod["runAsUser"] == 10001 and pod["fsGroup"] == 10001, where
            assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
            assert template["spec"]["automountServiceAccountToken"] is False, where
            check_grace(where, template, command_of)
            for container in module.containers(template):
                inside = container["securityContext"]
                assert inside == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                  "capabilities": {"drop": ["ALL"]}}, (where, container["name"])
                assert "memory" in container["resources"]["limits"], (where, container["name"])
                if container["name"] != "keys":
                    command = command_of(container)
                    check_probes(where, container, command)
                    check_files(where, template, container, command, stored)
        check_labels(module, variant, items, templates)


def check_labels(module, variant, items, templates):
    labels = [template["metadata"]["labels"] for _, template in templates]
    # LeaderWorkerSet gives its pods its own name.
    labels = [{**one, "leaderworkerset.sigs.k8s.io/name": "airlock-gpu"} for one in labels]

    def has_pods(selector):
        return any(selector.items() <= one.items() for one in labels)

    names = {module.identity(item) for item in items}
    for item in items:
        where, spec = f"{variant} {module.identity(item)}", item["spec"]
        if item["kind"] == "Service":
            assert has_pods(spec["selector"]), where
            chosen = [t for _, t in templates if spec["selector"].items() <= t["metadata"]["labels"].items()]
            ports = {port[key] for t in chosen for c in module.containers(t) for port in c.get("ports", ())
                     for key in ("name", "containerPort")}
            assert all(port.get("targetPort", port["port"]) in ports for port in spec["ports"]), where
        if item["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            assert has_pods(spec["selector"]["matchLabels"]), where
        if item["kind"] == "NetworkPolicy":
            assert has_pods(spec["podSelector"]["matchLabels"]), where
        if item["kind"] == "StatefulSet":
            assert ("Service", spec["serviceName"]) in names, where
    # Each endpoint of another pod's is one: its name is a pod's, its port one that it listens at.
    for where, template in templates:
        for container in module.containers(template):
            endpoint = commands.option(container.get("args", []), "--endpoint") or ""
            found = re.fullmatch(r"tcp://([\w-]+)-\$\(POD_INDEX\)\.([\w-]+):(\d+)", endpoint)
            if found is None:
                continue
            assert found[1] == found[2] and names & {("StatefulSet", found[1]), ("LeaderWorkerSet", found[1])}, endpoint
            replicas = {item["spec"]["replicas"] for item in items
                        if item["metadata"]["name"] in (found[1], "airlock") and "replicas" in item["spec"]}
            assert len(replicas) == 1, f"{variant}: not one gpu_server for each endpoint: {replicas}"
            listening = [commands.option(c.get("args", []), "--endpoint") for _, t in templates
                         for c in module.containers(t)]
            assert f"tcp://0.0.0.0:{found[3]}" in listening, (where, endpoint)


def probes_find_what_they_ask_for(work, bin_dir):
    """The programs as they are started in a pod, with the probes that are made there."""
    module, (folder, _) = manifests(), keys(work, bin_dir)
    model = write_model(os.path.join(work, "model"))
    write_tokenizer(model)
    probe = os.path.join(ROOT, "deploy", "containers", "airlock_probe")
    (deployment,) = [item for item in module.build(os.path.join(module.FOLDER, "pair")) if item["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    with open_pair(bin_dir) as pair:
        def arguments(container, **places):
            for word in container["args"]:
                name, _, value = word.partition("=")
                yield f"{name}={places[name]}" if name in places else word

        server_args = list(arguments(spec["initContainers"][1], **{
            "--model": model, "--endpoint": pair.endpoint, "--metrics": "127.0.0.1:0"}))
        server = pair.start("gpu_server", *server_args, "--threads=1", "--device=cpu")
        wait_until(lambda: "ready " in server.stdout() or not server.running(), "ready")
        port = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/", server.stderr())[1]
        runner = pair.start("tee_runner", *arguments(spec["containers"][0], **{
            "--model": model, "--endpoint": pair.endpoint, "--listen": "127.0.0.1:0", "--notice-seconds": "0",
            "--tls-cert": f"{folder}/tls.crt", "--tls-key": f"{folder}/tls.key", "--api-keys": f"{folder}/api-keys"}),
            "--threads=1")
        wait_until(lambda: "ready " in runner.stdout() or not runner.running(), "ready")
        assert runner.running() and server.running(), runner.report() + server.report()
        for path in PATHS:
            # It gives up after 2 s, which a busy machine may take.
            wait_until(lambda path=path: run(probe, port, path).returncode == 0 or not server.running(), path)
            assert server.running(), server.report()
        assert run(probe, port, "/nothing").returncode == 1
        url = re.search(r"ready (https://\S+)", runner.stdout())[1]
        context = ssl.create_default_context(cafile=f"{folder}/tls.crt")
        context.check_hostname = False  # it names the service, not this loopback
        for path in PATHS:
            with urllib.request.urlopen(url + path, context=context, timeout=LIMIT_S) as answer:
                assert answer.status == 200, (path, answer.status)
        for process in (runner, server):
            process.signal(signal.SIGTERM)
            process.expect_exit(0)
        assert run(probe, port, "/healthz").returncode == 1  # nobody is there


def made_keys_open_a_connection(work, bin_dir):
    """Of secrets.yaml, as a pod gets them: copied, 0400."""
    _, stored = keys(work, bin_dir)
    places = {}
    for item in stored.values():
        folder = os.path.join(work, item["metadata"]["name"])
        os.mkdir(folder)
        for name, text in item["data"].items():
            places[name] = os.path.join(folder, name)
            with open(places[name], "wb") as file:
                file.write(base64.b64decode(text, validate=True) if item["kind"] == "Secret" else text.encode())
    for name in ("server.key", "runner.key"):
        done = run("install", "-m", "0400", "-t", work, places[name])
        assert done.returncode == 0, done
        places[name] = os.path.join(work, name)
        assert stat.S_IMODE(os.stat(places[name]).st_mode) == 0o400
    with open_pair(bin_dir) as pair:
        server = pair.server("--key", places["server.key"], "--authorized-keys", places["authorized-keys"],
                             endpoint="tcp://127.0.0.1:0")
        pair.prefill("--key", places["runner.key"], "--server-key", places["server.pub"], endpoint=server.endpoint)
        pair.runner(endpoint=server.endpoint).expect_exit(4)
        pair.stop(server)


def systemd_takes_the_units(work, bin_dir):
    if shutil.which("systemd-analyze") is None:
        raise Skip("no systemd-analyze here")
    for name, text in commands.units():
        path = os.path.join(work, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("/usr/local/bin/", bin_dir + "/"))
        done = run("systemd-analyze", "verify", "--man=no", path)
        assert done.returncode == 0 and name not in done.stderr, done
        done = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", path)
        assert done.returncode == 0, done.stdout[-2000:]
        settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
        command = shlex.split(settings["ExecStart"])
        assert int(settings["TimeoutStopSec"]) > seconds(command, "--drain-seconds") + 5, name
        assert settings["RestartPreventExitStatus"] == "1 2 4", name


def images_have_what_the_programs_link(_, bin_dir):
    made = commands.stages()
    for name in ("gpu_server", "tee_runner", "gpu_server_group"):
        assert commands.last(made[name], "USER") == "10001:10001", name
        assert commands.last(made[name], "STOPSIGNAL") == "SIGTERM", name
        assert commands.last(made[name], "ENTRYPOINT").startswith('["/'), f"{name}: not the exec form"
    if not os.path.exists("/etc/debian_version") or "VERSION_CODENAME=bookworm" not in read_text("/etc/os-release"):
        raise Skip("the images are Debian 12's, and this is not")
    installed = re.search(r"apt-get install -y --no-install-recommends (.*?) &&",
                          next(rest for word, rest in made["base"] if word == "RUN"))[1].split()
    listed = run("dpkg-query", "-W", "-f", "${Package}\t${Depends}\n").stdout
    depends = {name: [re.split(r"[ :(]", one.strip())[0] for one in re.split(r"[,|]", line)]
               for name, _, line in (row.partition("\t") for row in listed.splitlines())}
    have, waiting = set(), set(installed)
    while waiting:  # with what each depends on
        name = waiting.pop()
        have.add(name)
        waiting |= set(depends.get(name, ())) - have
    linked = {os.path.realpath(path) for program in ("gpu_server", "tee_runner", "airlock_keygen", "airlock_stat")
              for path in re.findall(r"=> (/\S+)", run("ldd", os.path.join(bin_dir, program)).stdout)}
    assert len(linked) > 5, linked
    owners = dict(reversed(row.split(": ", 1)) for row in run(
        "dpkg-query", "-S", *linked, *(path.removeprefix("/usr") for path in linked)).stdout.splitlines())
    for path in linked:
        owner = owners.get(path) or owners.get(path.removeprefix("/usr"))
        if owner is None:
            raise Skip(f"{path} is no package's here")
        assert owner.split(":")[0] in have, f"{path} is linked, of {owner}, which no image has"


def report_data_hashes_what_the_page_says(work, _):
    """The digest was computed with openssl and sha512sum (docs/ATTESTATION.md)."""
    program = os.path.join(ROOT, "deploy", "attestation", "report_data")
    folder = os.path.join(ROOT, "tests", "data", "attestation")
    said = ("--tls-cert", f"{folder}/tls.crt", "--server-key", f"{folder}/server.pub", "--model-digest",
            "4c" * 32, "--privacy", "otp-verify", "--nonce", "00112233445566778899aabbccddeeff")
    expected = read_text(f"{folder}/report_data.hex")
    assert run(program, *said).stdout == expected
    raw = subprocess.run([program, *said, "-o", "raw"], capture_output=True, timeout=LIMIT_S, check=True).stdout
    assert raw.hex() + "\n" == expected and len(raw) == 64
    text = run(program, *said, "-o", "text").stdout
    page = read_text(os.path.join(ROOT, "docs", "ATTESTATION.md"))
    assert f"```\n{text}```" in page and expected.strip() in page, "the page has another example"
    for index, other in ((5, "4d" * 32), (7, "otp"), (9, "ff" * 16), (3, "none")):
        assert run(program, *said[:index], other, *said[index + 1:]).stdout not in ("", expected), other
    for index, bad, code in ((1, f"{folder}/server.pub", 1), (3, f"{folder}/tls.crt", 1), (1, work, 1),
                             (5, "4C" * 32, 2), (7, "none", 2), (9, "00", 2)):
        assert run(program, *said[:index], bad, *said[index + 1:]).returncode == code, bad


def the_manifest_measures_what_it_mounts(_, __):
    manifest = tomllib.loads(commands.gramine())
    trusted = {uri.rstrip("/") for uri in manifest["sgx"]["trusted_files"]}
    allowed = {uri.rstrip("/") for uri in manifest["sgx"]["allowed_files"]}
    for mount in manifest["fs"]["mounts"]:
        kind = mount.get("type", "chroot")
        if kind == "chroot":
            assert mount["uri"] in trusted, f"{mount} is not measured"
        assert (kind == "untrusted_shm") == (mount.get("uri") in allowed), mount
    assert allowed == {"dev:/dev/shm"} and manifest["sgx"]["debug"] is False
    assert not re.search(r"insecure__", commands.gramine())
    for uri in trusted:
        if re.fullmatch(r"file:[\w.-]+", uri) and uri != "file:provision-ca.crt":
            assert os.path.exists(os.path.join(ROOT, "deploy", "gramine", uri[5:])), f"no {uri} beside the manifest"


SCENARIOS = (the_programs_take_every_command_line, kustomizations_are_whole, objects_fit_their_schemas,
             pods_hang_together, probes_find_what_they_ask_for, made_keys_open_a_connection, systemd_takes_the_units,
             images_have_what_the_programs_link, report_data_hashes_what_the_page_says,
             the_manifest_measures_what_it_mounts)


if __name__ == "__main__":
    main(__doc__, SCENARIOS, lambda scenario, folder, bin_dir: scenario(folder, bin_dir))
