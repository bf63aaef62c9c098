"""What the passes of a LLaMA model ask of a server, in bytes and products, and which host holds which weights: from
its shape alone, as runtime/model/forward_plan, proto/op and runtime/placement have it: tests/tools/plan compares the
former, and has the same figures of placements as tests/placement. Python's standard library only."""
import collections
import dataclasses
import json

DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
PANEL = 256  # columns: weights are cut at multiples of this alone
MAX_HOSTS = 1023
MAX_TOKENS = 131072
MAX_TENSOR_BYTES = 4 << 30
MAX_MESSAGE_BYTES = 8 << 30
MAX_SCORE_BYTES = 256 << 20
MAX_PART_BYTES = 256 << 20
MAX_OPS = 1 << 20
MAX_CONFIG_BYTES = 1 << 20
WORD_BYTES = 4  # of a private mode's integers
DIGITS = 4  # 8-bit rows that a row of words is multiplied as
# A linear -> its weights, in the order in which they are placed.
LINEARS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
STEPS = ("embedding", "qkv", "scores", "values", "o", "gate_up", "down", "lm_head")
# A key of config.json -> what it is without one, the most that it may be.
CONFIG = {"vocab_size": (32000, 4 << 20), "hidden_size": (4096, 1 << 16), "intermediate_size": (11008, 1 << 18),
          "num_hidden_layers": (32, 512), "num_attention_heads": (32, 1024), "num_key_value_heads": (None, 1024),
          "head_dim": (None, 1024)}


class Refused(Exception):
    """A config or a pass that the programs refuse too; its words are the reason."""


@dataclasses.dataclass(frozen=True)
class Dims:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # lm_head is the embedding table

    def weight(self, kind):
        """[out, in]."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"q": (queries, self.hidden), "k": (keys, self.hidden), "v": (keys, self.hidden),
                "o": (self.hidden, queries), "gate": (self.intermediate, self.hidden),
                "up": (self.intermediate, self.hidden), "down": (self.hidden, self.intermediate)}[kind]

    def weights(self):
        """Each weight of a layer with its shape, in the order in which they are placed."""
        return {kind: self.weight(kind) for kinds in LINEARS.values() for kind in kinds}

    def layer_elements(self):
        return sum(rows * columns for rows, columns in self.weights().values())

    def table_elements(self):
        return self.vocab * self.hidden

    def elements(self):
        """Of the whole model but its norms, which the TEE has."""
        return self.layers * self.layer_elements() + (1 if self.tied else 2) * self.table_elements()


def read_dims(path):
    """Of a config.json as Hugging Face has it. Refused: what it says is no shape of a model."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise Refused(f"{path}: over {MAX_CONFIG_BYTES} bytes")
        config = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise Refused(f"{path}: no object")
    values = {}
    for key, (default, most) in CONFIG.items():
        value = default if config.get(key) is None else config[key]
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise Refused(f"{path}: {key} is {value!r}, expected 1 to {most}")
        values[key] = value
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    kv_heads = values["num_key_value_heads"] or heads
    if heads % kv_heads != 0:
        raise Refused(f"{path}: {heads} heads are no multiple of {kv_heads} key-value heads")
    head_dim = values["head_dim"] or hidden // heads
    if head_dim % 2 != 0 or head_dim < 1 or (values["head_dim"] is None and hidden % heads != 0):
        raise Refused(f"{path}: a head has no even whole number of channels")
    tied = config.get("tie_word_embeddings") or False
    if not isinstance(tied, bool):
        raise Refused(f"{path}: tie_word_embeddings is {tied!r}, expected true or false")
    return Dims(hidden, values["intermediate_size"], values["num_hidden_layers"], heads, kv_heads, head_dim,
                values["vocab_size"], tied)


# Ops


@dataclasses.dataclass(frozen=True)
class Op:
    step: str
    sent: int  # bytes of its inputs
    received: int  # bytes of its results
    largest: int  # bytes of its largest tensor
    columns: int  # of its results together, by which it may be cut; 0: it is not
    flop: int
    read: int  # bytes that a device reads for it: weights, or a matmul's operands and results


@dataclasses.dataclass
class Passes:
    """Ops and how often each is asked for: of every layer alike, and of none."""
    layer: collections.Counter
    outer: collections.Counter
    layers: int

    def ops(self):
        """(op, calls) over all layers."""
        yield from self.outer.items()
        for op, calls in self.layer.items():
            yield op, calls * self.layers


@dataclasses.dataclass(frozen=True)
class Terms:
    """What sizes tensors and weights beside the model."""
    wire: int = 2  # bytes of an activation's element
    dtype: int = 2  # bytes of a weight's element
    planes: int = 0  # int8 planes of a weight in a private mode; 0: plain


def parts(count, row_bytes):
    """Rows in parts of at most 256 MiB."""
    step = max(MAX_PART_BYTES // row_bytes, 1)
    return [min(step, count - first) for first in range(0, count, step)]


def linear_op(step, rows, shapes, terms, result_bytes):
    """x [rows, in] times the weights [out, in] of these shapes."""
    columns, width = sum(shape[0] for shape in shapes), shapes[0][1]
    elements, widest = columns * width, max(shape[0] for shape in shapes)
    if terms.planes:
        return Op(step, rows * width * WORD_BYTES, rows * columns * terms.planes * WORD_BYTES,
                  rows * max(width, widest) * WORD_BYTES, columns, 2 * DIGITS * terms.planes * rows * elements,
                  terms.planes * elements)
    return Op(step, rows * width * terms.wire, rows * columns * result_bytes,
              rows * max(width * terms.wire, widest * result_bytes), columns, 2 * rows * elements,
              terms.dtype * elements)


def matmul_op(step, heads, m, k, n, groups, terms):
    """[heads, m, k] times [groups, k, n]."""
    a, b, c = (elements * terms.wire for elements in (heads * m * k, groups * k * n, heads * m * n))
    return Op(step, a + b, c, max(a, b, c), 0, 2 * heads * m * k * n, a + b + c)


def attention_ops(dims, tokens, position, terms):
    """Products of attention on the server, in tiles of heads and rows whose scores stay within 256 MiB."""
    per_group, keys = dims.heads // dims.kv_heads, position + tokens
    row_bytes = per_group * keys * terms.wire
    most = min(max(MAX_TENSOR_BYTES // (keys * dims.head_dim * terms.wire), 1), dims.kv_heads)
    groups = min(max(MAX_SCORE_BYTES // (row_bytes * tokens), 1), most)
    rows = min(max(MAX_SCORE_BYTES // (row_bytes * groups), 1), tokens)
    for group in range(0, dims.kv_heads, groups):
        count = min(groups, dims.kv_heads - group)
        heads = count * per_group
        for row in range(0, tokens, rows):
            m = min(rows, tokens - row)
            seen = position + row + m
            yield matmul_op("scores", heads, m, dims.head_dim, seen, count, terms)
            yield matmul_op("values", heads, m, seen, dims.head_dim, count, terms)


def one_pass(dims, tokens, position, offload, terms, with_logits):
    """The ops of a layer, and those of none."""
    outer, layer = [], []
    if not terms.planes:
        rows = tokens * dims.hidden * terms.wire
        outer.append(Op("embedding", tokens * 4, rows, rows, dims.hidden, 0, rows))

    def linear(step, rows):
        layer.append(linear_op(step, rows, [dims.weight(kind) for kind in LINEARS[step]], terms, terms.wire))
    linear("qkv", tokens)
    if offload:
        layer += attention_ops(dims, tokens, position, terms)
    linear("o", tokens)
    for rows in parts(tokens, dims.intermediate * (WORD_BYTES if terms.planes else terms.wire)):
        linear("gate_up", rows)
        linear("down", rows)
    if with_logits:
        outer.append(linear_op("lm_head", 1, [(dims.vocab, dims.hidden)], terms, 4))
    return layer, outer


def plan_passes(dims, tokens, terms, offload=False, position=0, chunk=0):
    """The passes that feed so many tokens behind `position` others, in pieces of `chunk` (0: at once), with the logits
    of the last one. Refused: a tensor or a number of ops that the programs refuse too."""
    what = f"{tokens} tokens from position {position}"
    if not (1 <= tokens and 0 <= position and position + tokens <= MAX_TOKENS):
        raise Refused(f"{what}: there are positions from 0 to {MAX_TOKENS - 1}")
    passes = Passes(collections.Counter(), collections.Counter(), dims.layers)
    step, count = chunk or tokens, 0
    for first in range(0, tokens, step):
        rows = min(step, tokens - first)
        layer, outer = one_pass(dims, rows, position + first, offload, terms, first + rows == tokens)
        count += len(layer) * dims.layers + len(outer)
        if count > MAX_OPS:
            raise Refused(f"{what}: more than {MAX_OPS} ops")
        for op in (*layer, *outer):
            if op.largest > MAX_TENSOR_BYTES or max(op.sent, op.received) > MAX_MESSAGE_BYTES:
                raise Refused(f"{what}: {op.step} is over the wire's limits; feed them in pieces (--chunk)")
        passes.layer.update(layer)
        passes.outer.update(outer)
    return passes


# Placement


@dataclasses.dataclass
class Share:
    """What one host holds: columns of each weight of each layer, and of lm_head; the embedding table or nothing."""
    layers: list  # [layers] of {weight: columns}
    lm_head: int = 0
    embedding: bool = False

    def columns(self, step, layer):
        """Of the results of an op that names weights; `layer` of an op of one."""
        return sum(self.layers[layer].get(kind, 0) for kind in LINEARS[step])

    def outer_columns(self, step, dims):
        return self.lm_head if step == "lm_head" else dims.hidden * self.embedding

    def layer_count(self):
        return sum(any(columns.values()) for columns in self.layers)

    def linear_elements(self, dims):
        return self.lm_head * dims.hidden + sum(count * dims.weight(kind)[1] for layer in self.layers
                                                for kind, count in layer.items())

    def bytes(self, dims, terms):
        """A table that is its whole lm_head too counts once; int8 weights lie beside the others."""
        once = dims.tied and self.lm_head == dims.vocab
        table = dims.table_elements() if self.embedding and not once else 0
        linears = self.linear_elements(dims)
        return (linears + table) * terms.dtype + linears * terms.planes


def fit(units, shares, most):
    """Whether units in their order fit into so many shares of at most `most`."""
    left = 0
    for unit in units:
        if unit > most:
            return False
        if unit > left:
            if shares == 0:
                return False
            shares, left = shares - 1, most
        left -= unit
    return True


def least_most(units, shares):
    """The smallest size that the largest of so many shares can have."""
    low, high = max(units), sum(units)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fit(units, shares, middle) else (middle + 1, high)
    return low


def cut(units, shares):
    """How many units each share has: none is larger than it must be; within that each takes what comes nearest to an
    even part of what is left, of two as near the fewer."""
    most, left, first, counts = least_most(units, shares), sum(units), 0, []
    for hosts in range(shares, 0, -1):
        size = count = 0
        while first + count < len(units):
            rest = units[first + count:]
            more = size + rest[0]
            must = count == 0 or not fit(rest, hosts - 1, most)
            if not must and not (more <= most and len(rest) >= hosts and (size + more) * hosts < 2 * left):
                break
            size, count = more, count + 1
        counts.append(count)
        first, left = first + count, left - size
    return counts


def place_layers(dims, hosts):
    shares = [Share([{} for _ in range(dims.layers)]) for _ in range(hosts)]
    units = [dims.layer_elements()] * dims.layers + [dims.table_elements()]
    first_layer = 0 if dims.tied else 1
    if not dims.tied:
        units.insert(0, dims.table_elements())
    first = 0
    for share, count in zip(shares, cut(units, hosts)):
        for unit in range(first, first + count):
            if unit == len(units) - 1:
                share.lm_head, share.embedding = dims.vocab, dims.tied or share.embedding
            elif unit < first_layer:
                share.embedding = True
            else:
                share.layers[unit - first_layer] = {kind: shape[0] for kind, shape in dims.weights().items()}
        first += count
    return shares


def place_columns(dims, hosts):
    shares = [Share([{} for _ in range(dims.layers)]) for _ in range(hosts)]
    loads = [0] * hosts

    def spread(rows, width):
        """Columns of each host. Those that had the least so far have a panel more where there is no even part."""
        panels, row, counts = -(-rows // PANEL), 0, [0] * hosts
        for i, host in enumerate(sorted(range(hosts), key=lambda host: (-loads[host], host))):
            count = panels // hosts + (i + panels % hosts >= hosts)
            end = min(row + count * PANEL, rows)
            counts[host], row = end - row, end
            loads[host] += counts[host] * width
        return counts
    for layer in range(dims.layers):
        for kind, (rows, width) in dims.weights().items():
            for share, count in zip(shares, spread(rows, width)):
                share.layers[layer][kind] = count
    for share, count in zip(shares, spread(dims.vocab, dims.hidden)):
        share.lm_head = count
    shares[0].embedding = True
    return shares


def place(kind, dims, hosts):
    """A share for each host that computes: whole layers, or some columns of every weight."""
    return place_layers(dims, hosts) if kind == "layers" else place_columns(dims, hosts)


@dataclasses.dataclass
class Crossing:
    """Bytes of tensors, and ops, over one link."""
    sent: int = 0
    received: int = 0
    ops: int = 0

    def add(self, sent, received, ops):
        self.sent, self.received, self.ops = self.sent + sent, self.received + received, self.ops + ops

    def bytes(self):
        return self.sent + self.received


def parts_of(passes, dims, shares):
    """(op, calls, columns of each share) of each op of each layer; columns None: whichever host computes it whole."""
    for op, calls in passes.outer.items():
        yield op, calls, [share.outer_columns(op.step, dims) for share in shares]
    for op, calls in passes.layer.items():
        if op.columns == 0:
            yield op, calls * dims.layers, None
            continue
        for layer in range(dims.layers):
            yield op, calls, [share.columns(op.step, layer) for share in shares]


def crossing_to_door(passes):
    crossing = Crossing()
    for op, calls in passes.ops():
        crossing.add(calls * op.sent, calls * op.received, calls)
    return crossing


def crossing_to_hosts(passes, dims, shares, door_only):
    """Between the door and the hosts beyond it: each input to each that has a part of the op, each result once. Where
    the door has no weights all shares lie beyond it, else the first is its own."""
    crossing = Crossing()
    beyond = slice(0 if door_only else 1, None)
    for op, calls, columns in parts_of(passes, dims, shares):
        if columns is None:
            if door_only:
                crossing.add(calls * op.sent, calls * op.received, calls)
            continue
        away = [count for count in columns[beyond] if count > 0]
        if away:
            crossing.add(calls * op.sent * len(away), calls * op.received * sum(away) // op.columns, calls)
    return crossing


def seconds_of_products(passes, dims, shares, tflops=None, read_gbs=None):
    """Of the hosts' devices: a part takes what its products or what it reads take, the longer of them; an op what its
    longest part does. A rate that is not given takes no time."""
    total = 0.0
    for op, calls, columns in parts_of(passes, dims, shares):
        part = 1.0 if columns is None else max(columns) / op.columns
        computing = op.flop / (tflops * 1e12) if tflops else 0.0
        reading = op.read / (read_gbs * 1e9) if read_gbs else 0.0
        total += calls * part * max(computing, reading)
    return total


def cache_bytes(dims, cache_type):
    """Of keys and values of one position in the TEE. A block has 64 of them; rows of values are padded."""
    pitch = -(-dims.head_dim // 32) * 32
    return dims.layers * dims.kv_heads * (dims.head_dim + pitch) * DTYPE_BYTES[cache_type]
