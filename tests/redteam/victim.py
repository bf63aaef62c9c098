"""A small model whose weights the host knows, as a Hugging Face directory, and what the host works out of it."""
import json
import os
import struct

import numpy as np
from tiny_model import model_shapes

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 256, "intermediate_size": 384, "max_position_embeddings": 2048, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float32",
    "vocab_size": 1024}
# Half the words of a message and fewer: with as many rows as columns a message spans everything.
PROMPT_TOKENS = 48


def write_model(folder, seed=1):
    """Random fp32 weights of CONFIG's shape; returns them by name."""
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(CONFIG, file)
    numbers = np.random.default_rng(seed)
    weights, header, offset = {}, {}, 0
    for name, shape in model_shapes(CONFIG):
        middle, spread = (1.0, 0.1) if len(shape) == 1 else (0.0, shape[-1] ** -0.5)
        weights[name] = (middle + spread * numbers.standard_normal(shape)).astype("<f4")
        end = offset + weights[name].nbytes
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in weights.values():
            file.write(values.tobytes())
    return weights


class Host:
    """What the untrusted side can say of each token of the vocabulary, from the weights alone."""

    def __init__(self, weights):
        def weight(name):
            return weights[f"model.layers.0.{name}.weight"].astype(np.float64)

        table = weights["model.embed_tokens.weight"].astype(np.float64)
        gamma = weight("input_layernorm")
        scale = np.sqrt(np.mean(table ** 2, axis=1, keepdims=True) + CONFIG["rms_norm_eps"])
        # What meets q, k and v of layer 0 where the token stands, whatever stands before it: [vocab, hidden].
        self.inputs = table / scale * gamma
        qkv = np.concatenate([weight(f"self_attn.{name}_proj") for name in "qkv"])
        rms = np.sqrt(np.mean(qkv ** 2, axis=0))
        exponents = np.rint(np.log2(np.sqrt(np.abs(gamma) / rms)))
        exponents -= np.rint(np.mean(exponents))
        # The same as a private mode rounds it, but for each row's own scale.
        self.scaled_inputs = self.inputs * np.exp2(-exponents)
        # Of each key/value head: [heads, vocab, head_dim]. Values are not turned by a token's place.
        values = self.inputs @ weight("self_attn.v_proj").T
        self.values = values.reshape(len(table), CONFIG["num_key_value_heads"], -1).transpose(1, 0, 2)

    def candidates(self, rows):
        """[vocab, hidden]: what a row of such a message would be, had it no mask."""
        return self.scaled_inputs if rows.dtype.kind in "ui" else self.inputs


def draw_prompt(numbers, count=PROMPT_TOKENS):
    """Distinct token ids, each as likely as another."""
    return numbers.permutation(CONFIG["vocab_size"])[:count]
