"""Writes a Hugging Face directory of the tiny configuration's shape."""
import json
import os
import random
import struct

from pair import TINY, read_json


def model_shapes(config):
    """Name and shape of each tensor of a LLaMA model, as transformers names them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", [hidden]
        yield prefix + "post_attention_layernorm.weight", [hidden]
        for name, shape in (("q", [q, hidden]), ("k", [kv, hidden]), ("v", [kv, hidden]), ("o", [hidden, q])):
            yield f"{prefix}self_attn.{name}_proj.weight", shape
        for name, shape in (("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])):
            yield f"{prefix}mlp.{name}_proj.weight", shape
    yield "model.norm.weight", [hidden]


def write_model(folder, seed=1):
    """A Hugging Face directory of TINY's shape with random fp32 weights."""
    os.makedirs(folder)
    config = read_json(TINY)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    numbers = random.Random(seed)
    header, parts, offset = {}, [], 0
    for name, shape in model_shapes(config):
        count = 1
        for size in shape:
            count *= size
        middle, spread = (1.0, 0.1) if len(shape) == 1 else (0.0, shape[-1] ** -0.5)
        parts.append(struct.pack(f"<{count}f", *(numbers.gauss(middle, spread) for _ in range(count))))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * count]}
        offset += 4 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return folder
