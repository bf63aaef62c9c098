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


def overflow(folder):
    """What write_model() wrote is a model no more whose activations fp32 can hold: of the largest weights in its first norm."""
    with open(os.path.join(folder, "model.safetensors"), "r+b") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        begin, end = json.loads(file.read(size))["model.layers.0.input_layernorm.weight"]["data_offsets"]
        file.seek(8 + size + begin)
        file.write(struct.pack("<f", 3.4e38) * ((end - begin) // 4))


def byte_alphabet():
    """A printable character for each byte, as byte-level tokenizers spell it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def write_tokenizer(folder, begin=False):
    """A tokenizer of TINY's 512 ids: single bytes, the tokens of ChatML, and pairs of letters."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {character: byte for byte, character in sorted(byte_alphabet().items())}
    pairs = [(first, second) for first in "abcdefghijklm" for second in "abcdefghijklmnopqrstuvwxyz"][:512 - 259]
    added = [{"id": 256 + i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False} for i, text in enumerate(specials)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    single = [*([{"SpecialToken": {"id": specials[0], "type_id": 0}}] if begin else []), {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {specials[0]: {"id": specials[0], "ids": [256], "tokens": [specials[0]]}} if begin else {}}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": level, "post_processor": template, "decoder": level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                           "vocab": {**vocab, **{text: 256 + i for i, text in enumerate(specials)},
                                     **{first + second: 259 + i for i, (first, second) in enumerate(pairs)}},
                           "merges": [list(pair) for pair in pairs]}}
    for name, content in (("tokenizer.json", tokenizer),
                          ("tokenizer_config.json", {"bos_token": specials[0], "eos_token": specials[2]})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
    return folder
