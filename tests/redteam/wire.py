"""What crossed, read from a recording (docs/TRACE_FORMAT.md): the trace and the payload beside it."""
import json
import os
import struct
from dataclasses import dataclass

import numpy as np

TYPES = {"F32": "<f4", "I32": "<i4", "U32": "<u4"}
LINEARS = {"q_proj": "qkv", "o_proj": "o", "gate_proj": "gate_up", "down_proj": "down"}


@dataclass
class Message:
    """One op's inputs, as the host got them."""
    seq: int
    run: int
    op: str
    layer: int | None
    linear: str  # qkv, o, gate_up, down, lm_head; empty where the op is none
    inputs: list


def linear_of(record):
    if record["op"] in ("batch_linear", "int_linear") and record.get("weights"):
        return LINEARS[record["weights"][0][1]]
    return "lm_head" if record["op"] in ("lm_head", "int_linear") else ""


def read_recording(trace):
    """The messages in their order, with their inputs mapped, not read. Of a run that was killed: what is whole."""
    with open(trace, encoding="utf-8") as file:
        lines = file.read().split("\n")[1:-1]
    with open(trace + ".safetensors", "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        entries = json.loads(file.read(length))
    data = np.memmap(trace + ".safetensors", np.uint8, "r", offset=8 + length)
    messages = []
    for record in map(json.loads, lines):
        inputs = []
        for index in range(len(record["inputs"])):
            entry = entries[f"{record['seq']:06}.in.{index}"]
            begin, end = entry["data_offsets"]
            inputs.append(data[begin:end].view(TYPES[entry["dtype"]]).reshape(entry["shape"]))
        messages.append(Message(record["seq"], record["run"], record["op"], record.get("layer"), linear_of(record),
                                inputs))
    return messages


def linear_inputs(messages):
    """[rows, columns] of each linear and lm_head."""
    return [message.inputs[0] for message in messages if message.linear]


def first_input(messages):
    """What meets q, k and v of layer 0 in the first pass."""
    return next(np.array(m.inputs[0]) for m in messages if m.linear == "qkv" and m.layer == 0)


def first_matmuls(messages):
    """Operands of the products of layer 0: queries, keys; attention probabilities, values."""
    both = [message.inputs for message in messages if message.op == "matmul"][:2]
    return [np.array(operand) for inputs in both for operand in inputs]


def shapes(messages):
    """All that a recording says beside its words and times."""
    return [(m.op, m.layer, m.linear, [(str(x.dtype), x.shape) for x in m.inputs]) for m in messages]


def remove(trace):
    for path in (trace, trace + ".safetensors"):
        os.remove(path)
