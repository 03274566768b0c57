"""Writes a tiny llama model with random weights as GGUF: it loads, tokenises and answers nonsense, quickly."""
import struct, sys
import numpy as np

rng = np.random.default_rng(7)
embd, heads, layers, ff, ctx = 32, 2, 1, 64, 256
tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581", "a", "b", "c"]
vocab = len(tokens)
types = [2, 3, 3] + [6] * 256 + [1] * 4

def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b

def kv(key, kind, value):
    head = text(key)
    if kind == "str": return head + struct.pack("<I", 8) + text(value)
    if kind == "u32": return head + struct.pack("<II", 4, value)
    if kind == "f32": return head + struct.pack("<If", 6, value)
    code, items = {"strs": (8, value), "f32s": (6, value), "i32s": (5, value)}[kind]
    out = head + struct.pack("<IIQ", 9, code, len(items))
    for i in items:
        out += text(i) if code == 8 else struct.pack("<f" if code == 6 else "<i", i)
    return out

meta = [
    kv("general.architecture", "str", "llama"), kv("general.name", "str", "tiny"),
    kv("llama.context_length", "u32", ctx), kv("llama.embedding_length", "u32", embd),
    kv("llama.block_count", "u32", layers), kv("llama.feed_forward_length", "u32", ff),
    kv("llama.rope.dimension_count", "u32", embd // heads), kv("llama.attention.head_count", "u32", heads),
    kv("llama.attention.head_count_kv", "u32", heads), kv("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
    kv("tokenizer.ggml.model", "str", "llama"), kv("tokenizer.ggml.tokens", "strs", tokens),
    kv("tokenizer.ggml.scores", "f32s", [0.0] * vocab), kv("tokenizer.ggml.token_type", "i32s", types),
    kv("tokenizer.ggml.bos_token_id", "u32", 1), kv("tokenizer.ggml.eos_token_id", "u32", 2),
]
shapes = {"token_embd.weight": (embd, vocab), "output_norm.weight": (embd,), "output.weight": (embd, vocab)}
for i in range(layers):
    p = f"blk.{i}."
    for n in ("attn_q", "attn_k", "attn_v", "attn_output"): shapes[f"{p}{n}.weight"] = (embd, embd)
    for n in ("attn_norm", "ffn_norm"): shapes[f"{p}{n}.weight"] = (embd,)
    for n in ("ffn_gate", "ffn_up"): shapes[f"{p}{n}.weight"] = (embd, ff)
    shapes[f"{p}ffn_down.weight"] = (ff, embd)
infos, data, offset = b"", b"", 0
for name, shape in shapes.items():
    infos += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", d) for d in shape) + struct.pack("<IQ", 0, offset)
    raw = (np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.2, shape)).astype("<f4").tobytes()
    raw += b"\0" * (-len(raw) % 32)
    data += raw
    offset += len(raw)
head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(meta)) + b"".join(meta) + infos
open(sys.argv[1], "wb").write(head + b"\0" * (-len(head) % 32) + data)
