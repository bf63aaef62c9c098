"""What a user or a file gets wrong: a clear message, and the exit code of docs/INTERFACE.md."""
import ast
import json
import os
import shutil

from pair import TINY, read_json
from scenarios import read_bytes
from tiny_model import write_model


def expect_refused(process, codes, *words):
    """It ends with one of `codes` and says on stderr why, with each of `words`."""
    codes = codes if isinstance(codes, tuple) else (codes,)
    got = process.exit_code()
    assert got in codes, f"{process.name} exited with {got}, expected {codes}"
    text = process.stderr()
    assert text.strip(), f"{process.name} said nothing on stderr"
    for word in words:
        assert str(word) in text, f"{word!r} is not in its message"


def local(pair, *args, **kwargs):
    return pair.runner("--backend", "local", *args, **kwargs)


def another_models_digest_is_refused(pair):
    server = pair.server()
    expect_refused(pair.runner("--weights-seed", 2), 4)
    pair.runner().expect_exit(0)
    pair.stop(server)


def token_beyond_the_vocabulary_is_refused(pair):
    server = pair.server()
    for token in ("512", "-1", "2147483647"):
        for backend in ("remote", "local"):
            tokens = (f"--tokens=1,{token}",)
            expect_refused(pair.runner("--backend", backend, tokens=tokens), (1, 2) if token == "-1" else 1, token)
    pair.runner().expect_exit(0)
    pair.stop(server)


def empty_prompt_is_refused(pair):
    empty = pair.path("empty.txt")
    with open(empty, "w", encoding="utf-8"):
        pass
    for tokens in (("--tokens", ""), ("--tokens-file", empty), ("--random-tokens", "0")):
        expect_refused(local(pair, tokens=tokens), (1, 2))


def missing_tokens_file_is_refused(pair):
    expect_refused(local(pair, tokens=("--tokens-file", "/nonexistent/tokens")), 1, "/nonexistent/tokens")


def arguments_that_cannot_be_parsed_are_refused(pair):
    for args in (("--tokens", "1,x"), ("--tokens", "1,2", "--wire", "int4"), ("--tokens", "1", "--threads", "many"),
                 ("--tokens", "1", "--no-such-option"), ("--tokens", "1", "--attention", "nowhere"), ()):
        expect_refused(local(pair, tokens=args), 2)
    for args in (("--synthetic", TINY, "--no-such-option"), ("--synthetic", TINY, "--device", "toaster"), (),
                 ("--synthetic", TINY, "--endpoint", "carrier-pigeon"),
                 ("--synthetic", TINY, "--endpoint", "ipc://" + "/x" * 60)):
        expect_refused(pair.start("gpu_server", *args), 2)
    expect_refused(pair.start("tee_runner", "levitate"), 2)


def cuda_that_is_not_there_is_refused(pair):
    # 999: whatever this machine has
    expect_refused(pair.start("gpu_server", "--synthetic", TINY, "--endpoint", pair.endpoint, "--device", "cuda:999"), 5)


def tcp_beyond_loopback_needs_a_word(pair):
    process = pair.start("gpu_server", "--synthetic", TINY, "--endpoint", "tcp://*:0")
    expect_refused(process, (1, 2), "--insecure-tcp")


def endpoint_directory_open_to_others_is_refused(pair):
    folder = pair.path("open")
    os.mkdir(folder)
    os.chmod(folder, 0o755)
    endpoint = f"ipc://{folder}/ctl"
    expect_refused(pair.start("gpu_server", "--synthetic", TINY, "--endpoint", endpoint), (1, 2), folder)
    expect_refused(pair.runner(endpoint=endpoint), (1, 2), folder)


def endpoint_directory_that_is_a_link_is_refused(pair):
    link = pair.path("link")
    os.symlink(pair.run_dir, link)
    endpoint = f"ipc://{link}/ctl"
    expect_refused(pair.start("gpu_server", "--synthetic", TINY, "--endpoint", endpoint), (1, 2), link)
    expect_refused(pair.runner(endpoint=endpoint), (1, 2), link)


def missing_model_is_refused(pair):
    model = ("--model", "/nonexistent/model")
    expect_refused(pair.start("gpu_server", *model, "--endpoint", pair.endpoint), 1, "/nonexistent/model")
    expect_refused(local(pair, model=model), 1, "/nonexistent/model")
    expect_refused(local(pair, model=("--synthetic", "/nonexistent/config.json")), 1, "/nonexistent/config.json")


def truncated_model_is_refused(pair):
    whole = write_model(pair.path("model"))
    data = read_bytes(os.path.join(whole, "model.safetensors"))
    for index, size in enumerate((0, 7, 8, 100, len(data) // 2, len(data) - 1)):
        cut = shutil.copytree(whole, pair.path(f"cut-{index}"))
        with open(os.path.join(cut, "model.safetensors"), "wb") as file:
            file.write(data[:size])
        model = ("--model", cut)
        expect_refused(pair.start("gpu_server", *model, "--endpoint", pair.endpoint), 1, "model.safetensors")
        expect_refused(local(pair, model=model), 1, "model.safetensors")


def expect_both_refuse(pair, model, *words):
    expect_refused(pair.start("gpu_server", "--model", model, "--endpoint", pair.endpoint), 1, *words)
    expect_refused(local(pair, model=("--model", model)), 1, *words)


def weights_of_another_kind_are_refused_with_what_converts_them(pair):
    for name, word in (("tiny-Q8_0.gguf", "gguf_file='tiny-Q8_0.gguf'"), ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
                       ("consolidated.00.pth", "convert_llama_weights_to_hf"), ("adapter_config.json", "merge_and_unload")):
        folder = pair.path(name + ".d")
        os.mkdir(folder)
        shutil.copy(TINY, os.path.join(folder, "config.json"))
        with open(os.path.join(folder, name), "wb"):
            pass
        expect_both_refuse(pair, folder, name, word)


def pointer_of_git_lfs_is_refused_with_what_fetches_the_file(pair):
    whole = write_model(pair.path("model"))
    for name in ("model.safetensors", "config.json"):
        folder = shutil.copytree(whole, pair.path("pointer-" + name))
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 99\n")
        expect_both_refuse(pair, folder, os.path.join(folder, name), "git -C", "lfs pull")


def hugging_face_cache_is_read_as_it_lies(pair):
    """Files are links to blobs; a repository's folder means its snapshot; a blob that is gone is named."""
    repository = pair.path("models--someone--tiny")
    snapshot, blobs = os.path.join(repository, "snapshots", "0123abcd"), os.path.join(repository, "blobs")
    os.makedirs(snapshot)
    shutil.move(write_model(pair.path("model")), blobs)
    for name in os.listdir(blobs):
        os.symlink(f"../../blobs/{name}", os.path.join(snapshot, name))
    server = pair.server(model=("--model", repository))
    pair.runner(model=("--model", snapshot)).expect_exit(0)
    pair.runner("--compare-local", model=("--model", repository)).expect_exit(0)
    pair.stop(server)
    os.unlink(os.path.join(blobs, "model.safetensors"))
    for model in (repository, snapshot):
        expect_both_refuse(pair, model, "blobs/model.safetensors", "hf download someone/tiny")


def absurd_config_is_refused(pair):
    text = read_json(TINY)
    for index, (key, value) in enumerate((("hidden_size", 0), ("num_hidden_layers", -1), ("vocab_size", 1 << 40),
                                          ("num_attention_heads", "four"), ("rms_norm_eps", -1.0),
                                          ("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu"),
                                          ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
                                          ("quantization_config", {"quant_method": "gptq", "bits": 4}))):
        path = pair.path(f"config-{index}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**text, key: value}, file)
        expect_refused(pair.start("gpu_server", "--synthetic", path, "--endpoint", pair.endpoint), 1, key)


def demanded_geometry_that_differs_is_refused(pair):
    server = pair.server()
    expect_refused(pair.runner("--ring-slots", 16), (3, 5))
    expect_refused(pair.runner("--ring-slot-bytes", 65536), (3, 5))
    pair.runner("--ring-slots", 8, "--ring-slot-bytes", 10485760).expect_exit(0)
    pair.stop(server)


def logits_file_is_private_and_of_numpys_format(pair):
    out = pair.path("logits.npy")
    local(pair, "--logits-out", out).expect_exit(0)
    assert os.stat(out).st_mode & 0o777 == 0o600, oct(os.stat(out).st_mode)
    data = read_bytes(out)
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    start = 10 + int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:start].decode())
    assert header == {"descr": "<f4", "fortran_order": False, "shape": (512,)}, header
    assert start % 64 == 0 and len(data) == start + 4 * 512, (start, len(data))


def help_is_printed(pair):
    for program in ("gpu_server", "tee_runner"):
        process = pair.start(program, "--help").expect_exit(0)
        assert "--endpoint" in process.stdout() or "prefill" in process.stdout(), process.stdout()


SCENARIOS = (
    another_models_digest_is_refused,
    token_beyond_the_vocabulary_is_refused,
    empty_prompt_is_refused,
    missing_tokens_file_is_refused,
    arguments_that_cannot_be_parsed_are_refused,
    cuda_that_is_not_there_is_refused,
    tcp_beyond_loopback_needs_a_word,
    endpoint_directory_open_to_others_is_refused,
    endpoint_directory_that_is_a_link_is_refused,
    missing_model_is_refused,
    truncated_model_is_refused,
    weights_of_another_kind_are_refused_with_what_converts_them,
    pointer_of_git_lfs_is_refused_with_what_fetches_the_file,
    hugging_face_cache_is_read_as_it_lies,
    absurd_config_is_refused,
    demanded_geometry_that_differs_is_refused,
    logits_file_is_private_and_of_numpys_format,
    help_is_printed,
)
