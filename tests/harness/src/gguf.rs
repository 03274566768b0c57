//! A tiny language model with random weights in the GGUF format, so that a real llama.cpp server has something to serve.
//! It writes nonsense, but with a real tokenizer, sampler and stream.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

const EMBEDDING: u64 = 64;
const FEED_FORWARD: u64 = 128;
const HEADS: u32 = 4;
const CONTEXT: u32 = 32_768;
const ALIGNMENT: usize = 32;
/// Control tokens before the 256 bytes.
const CONTROL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// The file's bytes: one layer, one token for each byte, weights from `seed`.
#[must_use]
pub fn tiny_model(seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let vocabulary = (CONTROL.len() + 256) as u64;
    let tensors: Vec<(String, Vec<u64>)> = [
        ("token_embd.weight", vec![EMBEDDING, vocabulary]),
        ("output_norm.weight", vec![EMBEDDING]),
        ("output.weight", vec![EMBEDDING, vocabulary]),
        ("blk.0.attn_norm.weight", vec![EMBEDDING]),
        ("blk.0.attn_q.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.attn_k.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.attn_v.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.attn_output.weight", vec![EMBEDDING, EMBEDDING]),
        ("blk.0.ffn_norm.weight", vec![EMBEDDING]),
        ("blk.0.ffn_gate.weight", vec![EMBEDDING, FEED_FORWARD]),
        ("blk.0.ffn_up.weight", vec![EMBEDDING, FEED_FORWARD]),
        ("blk.0.ffn_down.weight", vec![FEED_FORWARD, EMBEDDING]),
    ]
    .into_iter()
    .map(|(name, shape)| (name.to_owned(), shape))
    .collect();

    let mut out = Writer(Vec::new());
    out.0.extend(b"GGUF");
    out.u32(3);
    out.u64(tensors.len() as u64);
    let facts = facts();
    out.u64(facts.len() as u64);
    for (key, value) in &facts {
        out.text(key);
        out.value(value);
    }
    let mut offset = 0;
    for (name, shape) in &tensors {
        out.text(name);
        out.u32(u32::try_from(shape.len()).unwrap_or(0));
        shape.iter().for_each(|&side| out.u64(side));
        out.u32(0); // F32
        out.u64(offset);
        offset += (shape.iter().product::<u64>() * 4).next_multiple_of(ALIGNMENT as u64);
    }
    out.pad();
    for (name, shape) in &tensors {
        for _ in 0..shape.iter().product::<u64>() {
            let weight: f32 = if name.contains("norm") { 1.0 } else { random.random_range(-0.3..0.3) };
            out.0.extend(weight.to_le_bytes());
        }
        out.pad();
    }
    out.0
}

enum Fact {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

fn facts() -> Vec<(&'static str, Fact)> {
    let mut tokens: Vec<String> = CONTROL.iter().map(|&token| token.to_owned()).collect();
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    // Token kinds: 2 unknown, 3 control, 6 byte.
    let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
    vec![
        ("general.architecture", Fact::Text("llama".into())),
        ("general.name", Fact::Text("tiny random model".into())),
        ("general.alignment", Fact::U32(u32::try_from(ALIGNMENT).unwrap_or(32))),
        ("llama.context_length", Fact::U32(CONTEXT)),
        ("llama.embedding_length", Fact::U32(u32::try_from(EMBEDDING).unwrap_or(0))),
        ("llama.block_count", Fact::U32(1)),
        ("llama.feed_forward_length", Fact::U32(u32::try_from(FEED_FORWARD).unwrap_or(0))),
        ("llama.attention.head_count", Fact::U32(HEADS)),
        ("llama.attention.head_count_kv", Fact::U32(HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Fact::F32(1e-5)),
        ("llama.rope.dimension_count", Fact::U32(u32::try_from(EMBEDDING).unwrap_or(0) / HEADS)),
        ("llama.vocab_size", Fact::U32(u32::try_from(tokens.len()).unwrap_or(0))),
        ("tokenizer.ggml.model", Fact::Text("llama".into())),
        ("tokenizer.ggml.scores", Fact::F32s(vec![0.0; tokens.len()])),
        ("tokenizer.ggml.tokens", Fact::Texts(tokens)),
        ("tokenizer.ggml.token_type", Fact::I32s(kinds)),
        ("tokenizer.ggml.unknown_token_id", Fact::U32(0)),
        ("tokenizer.ggml.bos_token_id", Fact::U32(1)),
        ("tokenizer.ggml.eos_token_id", Fact::U32(2)),
    ]
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    /// A typed value: the type's number, then the value.
    fn value(&mut self, value: &Fact) {
        match value {
            Fact::U32(number) => {
                self.u32(4);
                self.u32(*number);
            }
            Fact::F32(number) => {
                self.u32(6);
                self.0.extend(number.to_le_bytes());
            }
            Fact::Text(text) => {
                self.u32(8);
                self.text(text);
            }
            Fact::Texts(texts) => {
                self.list(8, texts.len());
                texts.iter().for_each(|text| self.text(text));
            }
            Fact::F32s(numbers) => {
                self.list(6, numbers.len());
                numbers.iter().for_each(|number| self.0.extend(number.to_le_bytes()));
            }
            Fact::I32s(numbers) => {
                self.list(5, numbers.len());
                numbers.iter().for_each(|number| self.0.extend(number.to_le_bytes()));
            }
        }
    }

    fn list(&mut self, kind: u32, length: usize) {
        self.u32(9);
        self.u32(kind);
        self.u64(length as u64);
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_model_is_small_and_always_the_same() {
        let model = super::tiny_model(1);
        assert!(model.starts_with(b"GGUF") && model.len() < 1 << 20, "{}", model.len());
        assert_eq!(model, super::tiny_model(1));
        assert_ne!(model, super::tiny_model(2));
    }
}
