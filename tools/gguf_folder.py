"""The folder that Hugging Face would have of a LLaMA in a GGUF file: gguf_folder.py GGUF FOLDER. Needs the packages
gguf and numpy; tools/fetch_model runs it where they are.

Weights become bf16, the type of the checkpoints that these files were quantised from: a value that was quantised moves
by at most one part in 512 more. The tokenizer is byte-level BPE with GPT-2's rule for words and each digit apart, what
llama.cpp calls "smollm". Anything else that a file says of its tokenizer or of its layout is refused.
"""
import json
import os
import struct
import sys

import gguf
import numpy as np

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
SPECIAL = (int(gguf.TokenType.CONTROL), int(gguf.TokenType.USER_DEFINED))


class Metadata:
    """The key-value part of a file."""

    def __init__(self, reader):
        self.fields = reader.fields

    def get(self, key, otherwise=None):
        return self.fields[key].contents() if key in self.fields else otherwise

    def read(self, key, only=None):
        """What must be there, and must be `only` where that is given."""
        value = self.get(key)
        if value is None or (only is not None and value != only):
            raise ValueError(f"{key} is {value!r}, expected {'something' if only is None else repr(only)}")
        return value


def shortest(value):
    """The shortest decimal that is this fp32 number: 1e-05, where a double of it has 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def config_of(meta, tied):
    heads, hidden = meta.read("llama.attention.head_count"), meta.read("llama.embedding_length")
    meta.read("llama.rope.dimension_count", only=hidden // heads)
    scaled = [key for key in meta.fields if key.startswith("llama.rope.scaling")]
    if scaled:
        raise ValueError(f"{scaled[0]} is set: only plain rotary embeddings are converted")
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False,
        "bos_token_id": meta.read("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.read("tokenizer.ggml.eos_token_id"), "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": meta.read("llama.feed_forward_length"),
        "max_position_embeddings": meta.read("llama.context_length"),
        "mlp_bias": False, "model_type": "llama", "num_attention_heads": heads,
        "num_hidden_layers": meta.read("llama.block_count"),
        "num_key_value_heads": meta.get("llama.attention.head_count_kv", heads),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": shortest(meta.read("llama.attention.layer_norm_rms_epsilon")), "rope_scaling": None,
        "rope_theta": shortest(meta.get("llama.rope.freq_base", 10000.0)), "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "vocab_size": len(meta.read("tokenizer.ggml.tokens")),
    }


def hugging_face_name(name):
    parts = name.removesuffix(".weight").split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in LAYER:
        return f"model.layers.{int(parts[1])}.{LAYER[parts[2]]}.weight"
    if len(parts) == 1 and parts[0] in TOP:
        return TOP[parts[0]] + ".weight"
    raise ValueError(f"the tensor {name} is none of a LLaMA's")


def halves_apart(rows, heads):
    """Rows of a query or key projection: a GGUF has the two halves that rotary embeddings pair next to each other,
    Hugging Face one half of a head after the other."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return pairs.transpose(0, 2, 1, 3).reshape(rows.shape)


def as_bf16(values):
    """The bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def tensors(reader, config):
    """Name and bf16 bits of each tensor."""
    heads_of = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if not np.isfinite(values).all():
            raise ValueError(f"the tensor {tensor.name} holds what is no number")
        name = hugging_face_name(tensor.name)
        heads = heads_of.get(name.split(".")[-2])
        yield name, as_bf16(halves_apart(values, heads) if heads else values)


def write_safetensors(path, items):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in items:
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, bits in items:
            file.write(bits.data)


def tokenizer_of(meta):
    meta.read("tokenizer.ggml.model", only="gpt2")
    meta.read("tokenizer.ggml.pre", only="smollm")
    tokens, types = meta.read("tokenizer.ggml.tokens"), meta.read("tokenizer.ggml.token_type")
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in SPECIAL]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in meta.read("tokenizer.ggml.merges")]},
    }


def tokenizer_config_of(meta, config, tokenizer):
    tokens = meta.read("tokenizer.ggml.tokens")
    bos, eos, pad = (config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id"))
    unknown = meta.get("tokenizer.ggml.unknown_token_id")
    return {
        "add_bos_token": meta.get("tokenizer.ggml.add_bos_token", False), "add_prefix_space": False,
        "added_tokens_decoder": {str(token["id"]): {key: token[key] for key in token if key != "id"}
                                 for token in tokenizer["added_tokens"]},
        "bos_token": tokens[bos], "chat_template": meta.read("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False, "eos_token": tokens[eos],
        "model_max_length": config["max_position_embeddings"],
        "pad_token": None if pad is None else tokens[pad], "tokenizer_class": "GPT2Tokenizer",
        "unk_token": None if unknown is None else tokens[unknown],
    }


def main():
    path, folder = sys.argv[1:]
    reader = gguf.GGUFReader(path)
    meta = Metadata(reader)
    meta.read("general.architecture", only="llama")
    config = config_of(meta, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    tokenizer = tokenizer_of(meta)
    os.mkdir(folder)
    for name, value in (("config.json", config), ("tokenizer.json", tokenizer),
                        ("tokenizer_config.json", tokenizer_config_of(meta, config, tokenizer)),
                        ("generation_config.json",
                         {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
            file.write("\n")
    write_safetensors(os.path.join(folder, "model.safetensors"), list(tensors(reader, config)))


if __name__ == "__main__":
    main()
