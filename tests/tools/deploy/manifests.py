"""The Kubernetes objects of deploy/kubernetes: read as kustomize reads them, and held against schemas. Needs PyYAML."""
import json
import os
import re
import zipfile

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
FOLDER = os.path.join(ROOT, "deploy", "kubernetes")
VARIANTS = ("pair", "two-hosts", "group")
OLDEST = (1, 29)  # sidecars

# What leaderworkerset.x-k8s.io/v1 documents of itself, written down here by hand: its schema is in no package. Pod
# templates are Kubernetes' own.
LEADER_WORKER_SET = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": dict,
    "spec": {
        "replicas": int,
        "startupPolicy": ("LeaderCreated", "LeaderReady"),
        "networkConfig": {"subdomainPolicy": ("Shared", "UniquePerReplica")},
        "rolloutStrategy": {"type": ("RollingUpdate",),
                            "rollingUpdateConfiguration": {"maxUnavailable": (int, str), "maxSurge": (int, str),
                                                           "partition": int}},
        "leaderWorkerTemplate": {"size": int, "restartPolicy": ("Default", "RecreateGroupOnPodRestart", "None"),
                                 "leaderTemplate": dict, "workerTemplate": dict},
    },
}


def documents(path):
    """The objects of one file of YAML, in which no key stands twice."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        check_keys(node, path)
    return [document for document in yaml.safe_load_all(text) if document is not None]


def check_keys(node, path):
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{path}:{node.start_mark.line + 1}: a key stands twice: {keys}"
        for _, value in node.value:
            check_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            check_keys(value, path)


def build(folder, seen=None):
    """The objects of a kustomization, with those of the folders that it names; what was read goes to `seen`."""
    path = os.path.join(folder, "kustomization.yaml")
    (kustomization,) = documents(path)
    assert kustomization.keys() == {"apiVersion", "kind", "resources"}, f"{path}: more than is read here"
    made = []
    for name in kustomization["resources"]:
        resource = os.path.realpath(os.path.join(folder, name))
        if seen is not None:
            seen.add(resource)
        made += build(resource, seen) if os.path.isdir(resource) else documents(resource)
    return made


def identity(item):
    return item["kind"], item["metadata"]["name"]


def pod_templates(item):
    """(name, template) of each kind of pod that an object makes."""
    name = "/".join(identity(item))
    if item["kind"] in ("Deployment", "StatefulSet"):
        yield name, item["spec"]["template"]
    if item["kind"] == "LeaderWorkerSet":
        for role in ("leaderTemplate", "workerTemplate"):
            yield f"{name}/{role}", item["spec"]["leaderWorkerTemplate"][role]


def containers(template):
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def faults_of_leader_worker_set(value, shape=None, where=""):
    shape = LEADER_WORKER_SET if shape is None else shape
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        unknown = [f"{where}.{key}: unknown" for key in value.keys() - shape.keys()]
        return unknown + [fault for key in value.keys() & shape.keys()
                          for fault in faults_of_leader_worker_set(value[key], shape[key], f"{where}.{key}")]
    allowed = shape if isinstance(shape, tuple) else (shape,)
    good = any(type(value) is one if isinstance(one, type) else value == one for one in allowed)
    return [] if good else [f"{where}: {value!r} is none of {allowed}"]


class Schemas:
    """Kubernetes' own schemas of one version, strict, of the wheel of kubernetes-validate, of which no code is run."""

    PREFIX = "kubernetes_validate/kubernetes-json-schema/"

    def __init__(self, wheel, version):
        self.archive = wheel
        self.folder = f"{self.PREFIX}v{version[0]}.{version[1]}.0-local-strict/"
        self.definitions = self.read("_definitions.json")["$defs"]

    @classmethod
    def versions(cls, path):
        with zipfile.ZipFile(path) as wheel:
            found = {tuple(map(int, match.groups())) for name in wheel.namelist()
                     if (match := re.match(cls.PREFIX + r"v(\d+)\.(\d+)\.0-local-strict/", name))}
            yield from ((version, cls(wheel, version)) for version in sorted(found) if version >= OLDEST)

    def read(self, name):
        with self.archive.open(self.folder + name) as file:
            return json.load(file)

    def faults(self, item):
        """What is wrong with an object of Kubernetes' own."""
        group, _, version = item["apiVersion"].rpartition("/")
        name = "-".join(filter(None, (item["kind"].lower(), group.split(".")[0], version)))
        return list(self.check(item, self.read(f"{name}.json"), item["kind"]))

    def check(self, value, schema, where):
        known = {"$ref", "$schema", "$id", "description", "properties", "required", "type", "enum", "items", "oneOf",
                 "additionalProperties", "format", "default"}
        unknown = {key for key in schema if key not in known and not key.startswith("x-kubernetes")}
        assert not unknown, f"{where}: the schema has {unknown}, which nothing here looks at"
        if "$ref" in schema:
            yield from self.check(value, self.definitions[schema["$ref"].rpartition("/")[2]], where)
        if "oneOf" in schema and all(list(self.check(value, one, where)) for one in schema["oneOf"]):
            yield f"{where}: {value!r} is of no type that is allowed"
        if "type" in schema and not self.is_of(value, schema["type"]):
            yield f"{where}: {value!r} is no {schema['type']}"
            return
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where}: {value!r} is none of {schema['enum']}"
        if isinstance(value, dict):
            yield from self.check_object(value, schema, where)
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from self.check(item, schema.get("items", {}), f"{where}[{index}]")

    def check_object(self, value, schema, where):
        yield from (f"{where}.{key}: missing" for key in schema.get("required", ()) if key not in value)
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, item in value.items():
            if key in properties:
                yield from self.check(item, properties[key], f"{where}.{key}")
            elif others is False:
                yield f"{where}.{key}: unknown"
            elif isinstance(others, dict):
                yield from self.check(item, others, f"{where}.{key}")

    @staticmethod
    def is_of(value, names):
        types = {"string": str, "integer": int, "object": dict, "array": list, "boolean": bool, "null": type(None)}
        for name in [names] if isinstance(names, str) else names:
            if name == "number" and type(value) in (int, float):
                return True
            if name in types and type(value) is types[name]:
                return True
        return False
