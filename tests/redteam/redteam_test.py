#!/usr/bin/env python3
"""The red team: attacks on recordings of what really crossed between tee_runner and gpu_server. Against the prototype's
masks, and against no mask, each must succeed; against the masked modes it must be at chance. chance.py says how sure."""
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests", "integration")]
SYSTEM_PYTHON = "/usr/bin/python3"  # has python3-numpy where another python3 stands before it
HAS_NUMPY = importlib.util.find_spec("numpy") is not None


def go_to_a_python_with_numpy():
    if os.path.exists(SYSTEM_PYTHON) and os.path.realpath(sys.executable) != os.path.realpath(SYSTEM_PYTHON):
        has = subprocess.run([SYSTEM_PYTHON, "-c", "import numpy"], capture_output=True, check=False).returncode == 0
        if has:
            os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, "-B", *sys.argv])


import scenarios  # noqa: E402
from pair import Pair, wait_until  # noqa: E402

if HAS_NUMPY:
    import numpy as np

    import attacks
    import chance
    import prototype_masks
    import reuse
    import victim
    import wire
    from word_statistics import WordStatistics

MASKED_MODES = ("otp", "otp-verify", "otp-dealer")
# Of the rows that an attack must have right where it succeeds.
SUCCESS = 0.9


class Rig(Pair):
    """A Pair with a model of victim.py's, what the host knows of it, and a generator that was seeded by the system."""

    def __init__(self, bin_dir, work):
        super().__init__(bin_dir, work)
        self.numbers = np.random.default_rng()
        self.folder = self.path("model")
        self.host = victim.Host(victim.write_model(self.folder))
        self.recordings = 0

    def start_recording(self, mode, *args, tokens=(), model=None):
        """A runner under way that records all, with servers of its own, and its trace."""
        self.recordings += 1
        trace = self.path(f"{self.recordings}.jsonl")
        model = model or ("--model", self.folder)
        options = ["--record", trace, "--record-payload", "--privacy", mode]
        if mode == "plain":
            options += ["--attention", "offload", "--wire", "fp32"]
        servers = [self.server(model=model, endpoint=self.new_endpoint("worker"))]
        if mode == "otp-dealer":
            servers.append(self.server(model=model, endpoint=self.new_endpoint("dealer")))
            options += ["--dealer-endpoint", servers[1].endpoint]
        if len(tokens):
            tokens = ("--tokens", ",".join(map(str, tokens)))
        runner = self.runner(*options, *args, endpoint=servers[0].endpoint, model=model,
                             **({"tokens": tokens} if tokens else {}))
        return runner, trace, servers

    def new_endpoint(self, name):
        folder = self.path(f"{self.recordings}-{name}")
        os.mkdir(folder, 0o700)
        return f"ipc://{folder}/ctl"

    def record(self, mode, *args, **kwargs):
        """The messages of a run that ended well."""
        runner, trace, servers = self.start_recording(mode, *args, **kwargs)
        runner.expect_exit(0)
        for server in servers:
            self.stop(server)
        return wire.read_recording(trace), trace

    def record_prompt(self, mode, *args):
        """A prompt that was drawn for it, and the messages of its prefill."""
        prompt = victim.draw_prompt(self.numbers)
        return prompt, self.record(mode, *args, tokens=prompt)[0]


def expect_success(attack, host, rows, prompt, masks):
    right = attacks.hits(attack(host, rows), prompt)
    print(f"{attack.__name__} against {masks}: {right} of {len(prompt)}")
    assert right >= SUCCESS * len(prompt), f"{attack.__name__} has {right} of {len(prompt)} tokens against {masks}"


def expect_chance(attack, host, rows, prompt, masks):
    """At most what a guess without any knowledge has, with a probability of 1 - chance.MISTAKE."""
    right, most = attacks.hits(attack(host, rows), prompt), chance.most_hits(len(prompt), victim.CONFIG["vocab_size"])
    print(f"{attack.__name__} against {masks}: {right} of {len(prompt)}, chance has up to {most}")
    assert right <= most, f"{attack.__name__} has {right} of {len(prompt)} tokens against {masks}, chance {most} at most"


def tokens_are_found_under_the_prototypes_masks(rig):
    prompt, messages = rig.record_prompt("plain")
    rows = wire.first_input(messages)
    expect_success(attacks.nearest_neighbour, rig.host, rows, prompt, "no mask")
    for attack, mask in ((attacks.row_space_membership, prototype_masks.linear_scheme),
                         (attacks.common_vector_removal, prototype_masks.shared_pad),
                         (attacks.scalar_regression, prototype_masks.affine_rows)):
        masked = mask(rows, rig.numbers)
        expect_success(attack, rig.host, masked, prompt, mask.__name__)
        # That it is a mask: who only looks sees little.
        seen = attacks.hits(attacks.nearest_neighbour(rig.host, masked), prompt)
        assert seen < SUCCESS * len(prompt) / 2, f"{mask.__name__} hides nothing: {seen} of {len(prompt)}"


def a_prompt_is_read_off_the_prototypes_matmul(rig):
    """Each key/value head's masked values name the tokens, and the zeros under the causal mask their order."""
    prompt, messages = rig.record_prompt("plain")
    _, _, probabilities, values = wire.first_matmuls(messages)
    masked, masked_values, row_order, key_order = prototype_masks.permuted_matmul(probabilities, values, rig.numbers)
    rows, keys = attacks.zero_count(masked)
    assert np.array_equal(rows, row_order) and np.array_equal(keys, key_order), "the zeros tell the orders"
    for group in range(len(values)):
        found = attacks.matmul_regression(rig.host, masked_values[group], group)
        in_order = np.empty_like(prompt)
        in_order[keys] = found.tokens
        right = int(np.sum(in_order == prompt))
        assert right >= SUCCESS * len(prompt), f"{right} of {len(prompt)} tokens"
        assert np.sum(found.tokens == prompt) < SUCCESS * len(prompt) / 2, "the order was no secret"


def tokens_are_found_in_plain_integers(rig):
    """verify hides nothing, and one pad for all rows of a message as good as nothing."""
    prompt, messages = rig.record_prompt("verify")
    rows = wire.first_input(messages)
    assert rows.dtype == np.uint32, rows.dtype
    expect_success(attacks.nearest_neighbour, rig.host, rows, prompt, "verify")
    expect_success(attacks.scalar_regression, rig.host, rows, prompt, "verify")
    shared = prototype_masks.shared_ring_pad(rows, rig.numbers)
    expect_success(attacks.common_vector_removal, rig.host, shared, prompt, "one pad for all rows")
    expect_success(attacks.row_space_membership, rig.host, shared, prompt, "one pad for all rows")


def attacks_are_at_chance(rig, mode):
    prompt, messages = rig.record_prompt(mode)
    rows = wire.first_input(messages)
    assert rows.dtype == np.uint32 and rows.shape == (len(prompt), victim.CONFIG["hidden_size"]), rows.shape
    for attack in attacks.ON_ROWS:
        expect_chance(attack, rig.host, rows, prompt, mode)


def attacks_are_at_chance_against_otp(rig):
    attacks_are_at_chance(rig, "otp")


def attacks_are_at_chance_against_otp_verify(rig):
    attacks_are_at_chance(rig, "otp-verify")


def attacks_are_at_chance_against_otp_dealer(rig):
    attacks_are_at_chance(rig, "otp-dealer")


def nothing_crosses_but_integer_linears(rig):
    """No embedding, whose input is the prompt, and no matmul, whose zeros tell its order. In plain mode both do."""
    runs, layers = 2, victim.CONFIG["num_hidden_layers"]
    ops = {message.op for message in rig.record_prompt("plain")[1]}
    assert {"embedding", "matmul"} <= ops, ops
    for mode in ("verify", *MASKED_MODES):
        messages = rig.record_prompt(mode, "--repeat", runs)[1]
        assert {message.op for message in messages} == {"int_linear"}, {message.op for message in messages}
        assert len(messages) == runs * (4 * layers + 1), len(messages)
        assert all(len(m.inputs) == 1 and m.inputs[0].dtype == np.uint32 for m in messages)


def pass_features(messages):
    """[passes, features]"""
    runs = {}
    for message in messages:
        if message.linear:
            runs.setdefault(message.run, []).append(np.array(message.inputs[0]))
    return np.array([attacks.features(rows) for rows in runs.values()])


def classified(rig, mode, prompts, runs, mask=None):
    """How many passes of two prompts a classifier tells apart, of how many; with what else it could see the same."""
    seen = [rig.record(mode, "--repeat", runs, tokens=prompt) for prompt in prompts]
    assert wire.shapes(seen[0][0]) == wire.shapes(seen[1][0]), "shapes and order of the ops tell the prompts apart"
    if mask is not None:
        for messages, _ in seen:
            for message in messages:
                message.inputs = [mask(np.array(x), rig.numbers) for x in message.inputs] if message.linear else []
    right, trials = attacks.classify(*[pass_features(messages) for messages, _ in seen])
    for _, trace in seen:
        wire.remove(trace)
    print(f"a classifier of two prompts against {mode}{' masked' * (mask is not None)}: {right} of {trials}")
    return right, trials


def two_prompts_are_told_apart_unless_masked(rig):
    """400 passes of each of two prompts in each masked mode: the classifier is trained on half of them and tried on the
    other 400. Right answers stay within 200 +- 72 (chance.most_distance)."""
    prompts = [victim.draw_prompt(rig.numbers, 6) for _ in range(2)]
    for mode, mask in (("verify", None), ("plain", prototype_masks.shared_pad)):
        right, trials = classified(rig, mode, prompts, 40, mask)
        assert right >= SUCCESS * trials, (mode, right, trials)
    for mode in MASKED_MODES:
        right, trials = classified(rig, mode, prompts, 400)
        assert abs(right - trials / 2) <= chance.most_distance(trials), (mode, right, trials)


def expect_no_reuse(words, what):
    assert reuse.equal_rows(words) == 0, f"{what}: rows are the same"
    pairs = reuse.pairs_alike(words)
    assert not pairs, f"{what}: {len(pairs)} pairs of rows differ by little, {pairs[:5]}"


def repeats(words):
    """Shift to standard deviations, where small differences in a row or from row to row are not as many as chance has
    (each with 1/16; differences of independent words are independent in pairs, so their number's variance is known)."""
    found = {}
    for shift, small, count in reuse.shifted(words):
        sigma = (small - count / 16) / (count * 15 / 256) ** 0.5
        if abs(sigma) > chance.most_sigma(chance.MISTAKE / 100):  # of 93 sums
            found[shift] = max(found.get(shift, 0.0), sigma)
    return found


def no_pad_is_used_twice(rig):
    """All rows of all linears of four sessions in each masked mode: a prompt at once, twice, then in small pieces, then in
    pieces that are filled up with rows of zeros. From session to session, and from pass to pass, the plain integers are the
    same, so a pad that came again would give the very same row."""
    prompt = victim.draw_prompt(rig.numbers)
    for mode in MASKED_MODES:
        ways = ((), (), ("--chunk", 5), ("--chunk", 24, "--pad-tokens", "32"))
        messages = [rig.record(mode, "--repeat", 20, *args, tokens=prompt)[0] for args in ways]
        # All but lm_head's, of which a prompt wants the last row alone.
        filled = [len(rows) for rows in wire.linear_inputs(messages[-1]) if len(rows) == 32]
        assert len(filled) >= 0.8 * len(wire.linear_inputs(messages[-1])), "filled up"
        words, _ = reuse.first_words([rows for each in messages for rows in wire.linear_inputs(each)])
        assert len(words) >= (3 * len(prompt) + 64) * 20 * 4 * victim.CONFIG["num_hidden_layers"], len(words)
        print(f"{mode}: {len(words)} rows")
        expect_no_reuse(words, mode)
        assert not repeats(words), f"{mode}: words of a row, or of two rows, are alike: {repeats(words)}"


def a_pad_that_was_used_twice_is_found(rig):
    """In copies of a recording whose pads were tampered with: the plain integers are those of verify, the same prompt's."""
    prompt = victim.draw_prompt(rig.numbers)
    plain, masked = ([np.array(x) for x in wire.linear_inputs(rig.record(mode, "--repeat", 3, tokens=prompt)[0])]
                     for mode in ("verify", "otp-verify"))
    width = reuse.WORDS
    plain_words, places = reuse.first_words(plain)
    words, _ = reuse.first_words(masked)
    assert words.shape == plain_words.shape and np.all(np.abs(plain_words.view(np.int32)) < reuse.SMALL // 2)
    pads = plain_words - words
    expect_no_reuse(words, "as it was recorded")

    def broken(row, pad):
        copy = words.copy()
        copy[row] = plain_words[row] - pad[:width]
        return copy

    last = len(words) - 1  # lm_head's of the last pass
    other = places.index((3, 7))  # down's of layer 0 of the first pass, of another width
    assert plain[3].shape[1] != plain[-1].shape[1]
    assert reuse.pairs_alike(broken(last, pads[other])) == [(other, last)]
    assert reuse.pairs_alike(broken(last, np.uint32(0) - pads[other])) == [(other, last)]
    # As if the pass were missing in the counter: every row of the second pass meets that of the first.
    passes = len(words) // 3
    again = words.copy()
    again[passes:2 * passes] = plain_words[passes:2 * passes] - pads[:passes]
    assert reuse.equal_rows(again) >= passes
    assert {(row, row + passes) for row in range(passes)} <= set(reuse.pairs_alike(again))
    # As if a row went on where the one before it was a block of the cipher earlier.
    steps = words.copy()
    for row in range(1, len(words)):
        steps[row, :width - 4] = plain_words[row, :width - 4] - (plain_words - steps)[row - 1, 4:]
    assert not repeats(words)
    assert repeats(steps).get(4, 0) > 100, repeats(steps)


# Many words for few products: of 1152 words that cross for a row and layer 1024 are the residual stream's.
MANY_WORDS = {**(victim.CONFIG if HAS_NUMPY else {}), "hidden_size": 512, "intermediate_size": 64, "head_dim": 32,
              "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 8, "vocab_size": 512}
ALL_WORDS = 10 ** 8


def add_recording(rig, statistics, mode, repeat, spoil=None):
    """The words of so many prefills of one prompt, as they crossed, or spoiled. The recording is deleted."""
    config = rig.path("many.json")
    with open(config, "w", encoding="utf-8") as file:
        json.dump(MANY_WORDS, file)
    messages, trace = rig.record(mode, "--repeat", repeat, model=("--synthetic", config),
                                 tokens=victim.draw_prompt(rig.numbers, 512) % 512)
    for message in messages:
        rows = np.array(message.inputs[0])
        statistics.add(rows if spoil is None else spoil(rows), (message.layer, message.linear))
    del messages
    wire.remove(trace)


def words_of(rig, mode, words):
    statistics = WordStatistics()
    while statistics.words < words:
        add_recording(rig, statistics, mode, 6)
    return statistics


def the_wire_is_uniform(rig):
    """10^8 words. An honest build has a bit beyond 5 sigma once in 5e4 times, so such a bit must be so again in 10^8 words
    more: 32 (5.8e-7)^2 = 1e-11. The rest of the statistics have limits that are as rarely reached at once."""
    statistics = words_of(rig, "otp-verify", ALL_WORDS)
    print(f"{statistics.words} words; bits up to {np.max(np.abs(statistics.bits())):.2f} sigma, bytes "
          f"{[round(x, 2) for x in statistics.bytes()]}, {statistics.correlations()}")
    faults = statistics.faults(bit_sigma=5)
    if faults and all(fault.startswith("bit") for fault in faults):
        again = words_of(rig, "otp-verify", ALL_WORDS).faults(bit_sigma=5)
        faults = sorted(set(faults) & set(again))
    assert not faults, faults


def words_that_are_not_uniform_are_found(rig):
    """Plain integers, and masked ones in which one word of 200 was made worse; 10^7 words are enough to see it. (Bits of
    plain integers are set half of the time, as their signs are even; their upper bytes are those of small numbers.)"""
    plain = WordStatistics()
    add_recording(rig, plain, "verify", 1)
    assert {"byte 1", "byte 2", "byte 3"} <= set(plain.faults(bit_sigma=5)), plain.faults(bit_sigma=5)

    def one_of_200(change):
        def spoil(rows):
            worse = rig.numbers.random(rows.shape) < 1 / 200
            return np.where(worse, change(rows), rows).astype(np.uint32)
        return spoil

    def the_same_row_as_above(rows):
        return np.concatenate([rows[:1], rows[:-1]])

    for change, fault in ((lambda rows: rows | np.uint32(1 << 9), "bit 9"),
                          (lambda rows: rows & ~np.uint32(255) | np.uint32(0x5a), "byte 0"),
                          (lambda rows: np.roll(rows, 1, axis=1), "neighbours in a row"),
                          (the_same_row_as_above, "words below each other")):
        statistics = WordStatistics()
        add_recording(rig, statistics, "otp", 3, one_of_200(change))
        assert fault in statistics.faults(bit_sigma=5), (fault, statistics.faults(bit_sigma=5))
    repeated = WordStatistics()
    rows = rig.numbers.integers(0, 1 << 32, (4096, 256), dtype=np.uint32)
    for _ in range(2):
        repeated.add(rows, "the same")
    assert "the same place a pass later" in repeated.faults(bit_sigma=5)


def rows_by_place(messages):
    """Of each pass in its order, layer and linear: the rows."""
    return {(m.run, m.layer, m.linear): np.array(m.inputs[0]) for m in messages if m.linear}


def same_constants(first, second):
    """Whether rows of two runs differ by the same words in two places: pads of the second that are those of the first and
    one constant. first, second: the first words of the same rows, [rows, WORDS]"""
    return reuse.pairs_alike(first - second, with_turned=False)


def a_killed_run_sends_no_pad_twice(rig):
    """Killed in the middle and started again with the same prompt: plain integers are the same in both, so where a pad came
    again the rows would be equal, and where it came with a constant added the rows' differences would."""
    prompt = victim.draw_prompt(rig.numbers)
    runner, trace, servers = rig.start_recording("otp-verify", "--repeat", 5000, tokens=prompt)
    wait_until(lambda: not runner.running() or os.path.exists(trace) and os.path.getsize(trace) > 30000, "ops")
    assert runner.running(), runner.report()
    runner.signal(signal.SIGKILL)
    assert runner.exit_code() == -signal.SIGKILL
    for server in servers:
        rig.stop(server)
    killed = rows_by_place(wire.read_recording(trace))
    again = rows_by_place(rig.record("otp-verify", "--repeat", 1 + max(run for run, _, _ in killed), tokens=prompt)[0])
    both = sorted(killed.keys() & again.keys(), key=str)
    print(f"{len(killed)} messages before the kill, {len(both)} of them again")
    assert len(both) >= 20, len(both)
    first, second = ([rows[place] for place in both] for rows in (killed, again))
    expect_no_reuse(reuse.first_words([*first, *second])[0], "both runs")
    first, second = reuse.first_words(first)[0], reuse.first_words(second)[0]
    assert not same_constants(first, second)
    # The comparison sees it where it is so: the same pads, or the same but for a constant.
    assert reuse.equal_rows(np.concatenate([first, second, second[:1]])) == 1
    constant = rig.numbers.integers(0, 1 << 32, reuse.WORDS, dtype=np.uint32)
    worse = second.copy()
    worse[[3, 8]] = first[[3, 8]] + constant
    assert same_constants(first, worse) == [(3, 8)]


def needs_numpy(scenario):
    @functools.wraps(scenario)
    def wrapped(rig):
        return scenario(rig) if HAS_NUMPY else f"neither {sys.executable} nor {SYSTEM_PYTHON} has numpy (python3-numpy)"
    return wrapped


SCENARIOS = [tokens_are_found_under_the_prototypes_masks,
             a_prompt_is_read_off_the_prototypes_matmul,
             tokens_are_found_in_plain_integers,
             attacks_are_at_chance_against_otp,
             attacks_are_at_chance_against_otp_verify,
             attacks_are_at_chance_against_otp_dealer,
             nothing_crosses_but_integer_linears,
             two_prompts_are_told_apart_unless_masked,
             no_pad_is_used_twice,
             a_pad_that_was_used_twice_is_found,
             the_wire_is_uniform,
             words_that_are_not_uniform_are_found,
             a_killed_run_sends_no_pad_twice]

if __name__ == "__main__":
    if not HAS_NUMPY and "--list" not in sys.argv:
        go_to_a_python_with_numpy()
    scenarios.main(__doc__, [needs_numpy(scenario) for scenario in SCENARIOS],
                   lambda args, work: Rig(args.bin_dir, work) if HAS_NUMPY else Pair(args.bin_dir, work),
                   scenarios.programs("gpu_server", "tee_runner"))
