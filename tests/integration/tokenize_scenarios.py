"""tee_runner tokenize: text on stdin, ids on stdout, and back."""
import json
import os
import subprocess

from output_scenarios import BAD_FILE, FULL_DISK, USAGE, said
from scenarios import read_bytes

SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_alphabet():
    """The characters that stand for the bytes 0 to 255."""
    seen = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
    rest = iter(range(256, 512))
    return [chr(b) if b in seen else chr(next(rest)) for b in range(256)]


def tokenizer():
    """A tokenizer of bytes, "he" (256), <|begin|> (257) and <|end|> (258)."""
    vocab = {letter: i for i, letter in enumerate(byte_alphabet())}
    added = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, text in ((257, "<|begin|>"), (258, "<|end|>"))]
    return {"version": "1.0", "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
            "post_processor": {"type": "TemplateProcessing",
                               "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                                          {"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [],
                               "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [257], "tokens": ["<|begin|>"]}}},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {**vocab, "he": 256}, "merges": ["h e"]}}


def write_tokenizer(pair, **changes):
    """A folder with tokenizer.json alone."""
    folder = pair.path("tokenizer")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump({**tokenizer(), **changes}, file)
    return folder


def tokenize(pair, *args, text=b"", stdout=subprocess.PIPE, suffix=""):
    command = [os.path.join(pair.bin_dir, "tee_runner"), "tokenize", *args]
    return subprocess.run(["bash", "-c", '"$@" ' + suffix, "bash", *command], env=pair.env, input=text, stdout=stdout,
                          stderr=subprocess.PIPE, timeout=60, check=False)


def expect(pair, args, text, stdout):
    done = tokenize(pair, *args, text=text)
    assert done.returncode == 0 and done.stdout == stdout, f"{args}: {done.stdout!r}, {said(done)}"


def text_becomes_ids_and_ids_text(pair):
    model = ("--model", write_tokenizer(pair))
    expect(pair, model, b"he<|end|>\n", b"257,256,258,10\n")
    expect(pair, (*model, "--no-bos"), b"he", b"256\n")
    expect(pair, (*model, "--no-bos"), b"", b"\n")
    expect(pair, model, b"", b"257\n")
    expect(pair, (*model, "--no-bos", "--no-special"), b"<|", b"60,124\n")
    # As U+FFFD; its bytes are the ids.
    expect(pair, (*model, "--no-bos"), b"\xff", b"239,191,189\n")
    expect(pair, (*model, "--decode"), b"257,256, 258\n10", b"<|begin|>he<|end|>\n")
    expect(pair, (*model, "--decode", "--no-special"), b"257,256,258", b"he")


def lines_of_json_are_answered_one_by_one(pair):
    model = ("--model", write_tokenizer(pair), "--jsonl")
    expect(pair, model, b'"he"\n"\\n"\n""', b"[257,256]\n[257,10]\n[257]\n")
    expect(pair, (*model, "--decode"), b"[256,10]\r\n[]\n", b'"he\\n"\n""\n')
    command = [os.path.join(pair.bin_dir, "tee_runner"), "tokenize", *model]
    with subprocess.Popen(command, env=pair.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            process.stdin.write(b'"he"\n')
            process.stdin.flush()
            assert process.stdout.readline() == b"[257,256]\n"
        process.stdin.close()
        assert process.wait(60) == 0
    # What lies before a bad line is there.
    done = tokenize(pair, *model, text=b'"he"\nhe\n"he"\n')
    assert done.returncode == BAD_FILE and done.stdout == b"[257,256]\n" and b"line 2" in done.stderr, said(done)
    done = tokenize(pair, *model, "--decode", text=b"[256]\n[99999]\n")
    assert done.returncode == BAD_FILE and done.stdout == b'"he"\n' and b"99999" in done.stderr, said(done)


def bad_tokenizers_tokens_and_arguments_are_refused(pair):
    model = write_tokenizer(pair)
    for args, text, code, word in ((("--decode",), b"1,999999", BAD_FILE, b"999999"),
                                   (("--decode",), b"1,x", BAD_FILE, b"x"),
                                   (("--colour",), b"", USAGE, b"--colour")):
        done = tokenize(pair, "--model", model, *args, text=text)
        assert done.returncode == code and word in done.stderr and not done.stdout, f"{args}: {said(done)}"
    done = tokenize(pair)
    assert done.returncode == USAGE and b"--model" in done.stderr, said(done)
    done = tokenize(pair, "--model", pair.path("nowhere"))
    assert done.returncode == BAD_FILE and b"nowhere" in done.stderr, said(done)
    os.makedirs(pair.path("empty"))
    done = tokenize(pair, "--model", pair.path("empty"))
    assert done.returncode == BAD_FILE and b"tokenizer.json" in done.stderr, said(done)
    write_tokenizer(pair, normalizer={"type": "NFC"})
    done = tokenize(pair, "--model", model)
    assert done.returncode == BAD_FILE and b"tokenizer.json: 'normalizer.type' is \"NFC\"" in done.stderr, said(done)


def stdout_that_takes_nothing_is_told(pair):
    model = ("--model", write_tokenizer(pair))
    done = tokenize(pair, *model, text=b"he", suffix="> /dev/full")
    assert done.returncode == FULL_DISK, said(done)
    done = tokenize(pair, *model, text=b"he", suffix=">&-")
    assert done.returncode == BAD_FILE, said(done)
    done = tokenize(pair, *model, suffix="<&-")
    assert done.returncode == BAD_FILE and b"stdin" in done.stderr, said(done)
    out = pair.path("out")
    done = tokenize(pair, *model, text=b"he" * 500000, suffix=f"> {out}")
    assert done.returncode == 0 and read_bytes(out).count(b",") == 500000, said(done)


SCENARIOS = (
    text_becomes_ids_and_ids_text,
    lines_of_json_are_answered_one_by_one,
    bad_tokenizers_tokens_and_arguments_are_refused,
    stdout_that_takes_nothing_is_told,
)
