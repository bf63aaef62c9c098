"""Golden models over the pair: the runner's logits beside those of transformers. Python's standard library only."""
import array
import ast
import glob
import json
import math
import os
import statistics
import sys

from pair import ROOT

# The golden models that are too large for the clone lie in golden/ of the folder that AIRLOCK_SHARED names.
SHARED = os.path.join(os.environ.get("AIRLOCK_SHARED") or os.path.join(ROOT, "..", "shared", "data"), "golden")
# Of the README beside the golden models: largest error over largest logit, and mean KL divergence, by wire dtype.
BOUNDS = {"fp32": (2e-5, 1e-9), "fp16": (4e-3, 5e-6), "bf16": (4e-2, 2.5e-4)}
CODES = {"<f4": "f", "<i8": "q"}


def read_npy(path):
    """(shape, values) of a little-endian .npy file of version 1."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:8] != b"\x93NUMPY\x01\x00" or len(data) < 10:
        raise ValueError(f"{path} is not a .npy file of version 1")
    start = 10 + int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:start].decode("latin-1"))
    if header["descr"] not in CODES or header["fortran_order"]:
        raise ValueError(f"{path}: {header} is not read here")
    values = array.array(CODES[header["descr"]])
    values.frombytes(data[start:])
    if sys.byteorder != "little":
        values.byteswap()
    if len(values) != math.prod(header["shape"]):
        raise ValueError(f"{path} has {len(values)} values for the shape {header['shape']}")
    return header["shape"], values


def models_below(*roots):
    """Folders with golden_logits.npy directly below the roots."""
    return [os.path.dirname(path) for root in roots
            for path in sorted(glob.glob(os.path.join(glob.escape(root), "*", "golden_logits.npy")))]


def stored_dtype(folder):
    """The type that most of a model's weights are stored in."""
    path = sorted(glob.glob(os.path.join(folder, "*.safetensors")))[0]
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    types = [entry["dtype"] for name, entry in header.items() if name.endswith("_proj.weight")]
    return {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}[statistics.mode(types)]


def log_sum(row):
    peak = max(row)
    return peak + math.log(sum(math.exp(x - peak) for x in row))


def divergence(expected, got):
    """KL of softmax(got) from softmax(expected)."""
    p_sum, q_sum = log_sum(expected), log_sum(got)
    return sum(math.exp(e - p_sum) * ((e - p_sum) - (g - q_sum)) for e, g in zip(expected, got))


def compare(golden_path, got_path, wire):
    """{"error", "mean_kl", "fault"}: fault is empty where the logits are within the bounds of `wire`."""
    shape, golden = read_npy(golden_path)
    got_shape, got = read_npy(got_path)
    if tuple(shape) != tuple(got_shape):
        return {"error": None, "mean_kl": None, "fault": f"the logits are {got_shape}, expected {shape}"}
    if not all(map(math.isfinite, got)):
        return {"error": None, "mean_kl": None, "fault": "a logit is not finite"}
    most_error, most_kl = BOUNDS[wire]
    largest = max(map(abs, golden))
    error = max(map(abs, map(float.__sub__, got, golden))) / largest
    rows, vocab = shape
    kl, faults = 0.0, []
    for row in range(rows):
        expected, ours = golden[row * vocab:(row + 1) * vocab], got[row * vocab:(row + 1) * vocab]
        kl += divergence(expected, ours) / rows
        first, second = sorted(expected)[-1:-3:-1]
        if first - second > 2 * most_error * largest and ours.index(max(ours)) != expected.index(first):
            faults.append(f"another top token at position {row}")
    if error > most_error:
        faults.append(f"the largest error is {error:.3g} of the largest logit, the bound {most_error:g}")
    if kl > most_kl:
        faults.append(f"the mean KL divergence is {kl:.3g}, the bound {most_kl:g}")
    return {"error": error, "mean_kl": kl, "fault": "; ".join(faults)}
