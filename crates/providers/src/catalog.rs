//! Known hosts and models. Plain constant tables: nothing is parsed at start. To add a host, add one row.

use crate::spec::{Compat, Cost, Dialect, ThinkingStyle};

/// A known host.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Its id in configs.
    pub id: &'static str,
    /// Other spellings of the id.
    pub also: &'static [&'static str],
    /// For people.
    pub name: &'static str,
    /// Where it is; the dialect's path is appended.
    pub base_url: &'static str,
    /// The config's word for its dialect.
    pub api: &'static str,
    /// Environment variables that hold a key, first found wins.
    pub env: &'static [&'static str],
    /// The port it listens on at home; 0 for hosts in the Internet. Local hosts need no key.
    pub local_port: u16,
    /// The model to take when only a key is known; empty when the host has to be asked.
    pub default_model: &'static str,
    /// How it bends its dialect.
    pub bends: Bends,
}

/// How a known host bends its dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bends {
    /// Not at all that we know.
    None,
    /// The real OpenAI.
    OpenAi,
    /// `thinking: {type}` switches reasoning.
    Switch,
    /// `reasoning: {effort}`.
    Object,
    /// Nine-character call ids, no `stream_options`.
    Mistral,
    /// `enable_thinking`.
    Enable,
}

impl Host {
    /// Its dialect.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        Dialect::parse(self.api).unwrap_or(Dialect::OpenAiChat)
    }

    /// How it differs.
    #[must_use]
    pub fn compat(&self) -> Compat {
        let base = Compat::default();
        match self.bends {
            Bends::None => base,
            Bends::OpenAi => Compat { max_completion_tokens: true, cache_key: true, ..base },
            Bends::Switch => Compat { thinking: ThinkingStyle::Switch, ..base },
            Bends::Object => Compat { thinking: ThinkingStyle::Object, ..base },
            Bends::Mistral => Compat { short_call_ids: true, stream_usage: false, effort: false, ..base },
            Bends::Enable => Compat { thinking: ThinkingStyle::Enable, ..base },
        }
    }
}

const fn cloud(id: &'static str, name: &'static str, base_url: &'static str, env: &'static [&'static str], default_model: &'static str) -> Host {
    Host { id, also: &[], name, base_url, api: "openai-completions", env, local_port: 0, default_model, bends: Bends::None }
}

const fn local(id: &'static str, name: &'static str, base_url: &'static str, env: &'static [&'static str], port: u16) -> Host {
    Host { id, also: &[], name, base_url, api: "openai-completions", env, local_port: port, default_model: "", bends: Bends::None }
}

/// All known hosts. The order is the order in which keys in the environment are looked for.
pub const HOSTS: &[Host] = &[
    Host {
        api: "anthropic-messages",
        ..cloud("anthropic", "Anthropic", "https://api.anthropic.com", &["ANTHROPIC_OAUTH_TOKEN", "ANTHROPIC_API_KEY"], "claude-opus-4-6")
    },
    Host { api: "openai-responses", bends: Bends::OpenAi, ..cloud("openai", "OpenAI", "https://api.openai.com/v1", &["OPENAI_API_KEY"], "gpt-5.4") },
    Host {
        also: &["z.ai", "z-ai", "zhipu"],
        bends: Bends::Switch,
        ..cloud("zai", "Z.AI", "https://api.z.ai/api/paas/v4", &["ZAI_API_KEY", "Z_AI_API_KEY"], "glm-5")
    },
    Host { bends: Bends::Object, ..cloud("openrouter", "OpenRouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"], "openrouter/auto") },
    Host {
        also: &["gemini"],
        api: "google-generative-ai",
        ..cloud("google", "Google Gemini", "https://generativelanguage.googleapis.com/v1beta", &["GEMINI_API_KEY", "GOOGLE_API_KEY"], "gemini-2.5-pro")
    },
    cloud("groq", "Groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"], "openai/gpt-oss-120b"),
    Host { bends: Bends::Mistral, ..cloud("mistral", "Mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"], "mistral-large-latest") },
    Host { bends: Bends::Switch, ..cloud("deepseek", "DeepSeek", "https://api.deepseek.com/v1", &["DEEPSEEK_API_KEY"], "deepseek-chat") },
    cloud("xai", "xAI", "https://api.x.ai/v1", &["XAI_API_KEY"], "grok-4"),
    cloud("together", "Together", "https://api.together.xyz/v1", &["TOGETHER_API_KEY"], ""),
    cloud("fireworks", "Fireworks", "https://api.fireworks.ai/inference/v1", &["FIREWORKS_API_KEY"], ""),
    cloud("cerebras", "Cerebras", "https://api.cerebras.ai/v1", &["CEREBRAS_API_KEY"], "gpt-oss-120b"),
    cloud("nvidia", "NVIDIA", "https://integrate.api.nvidia.com/v1", &["NVIDIA_API_KEY"], ""),
    Host { also: &["kimi"], ..cloud("moonshot", "Moonshot", "https://api.moonshot.ai/v1", &["MOONSHOT_API_KEY"], "kimi-k2.5") },
    Host { api: "anthropic-messages", ..cloud("minimax", "MiniMax", "https://api.minimax.io/anthropic", &["MINIMAX_API_KEY"], "MiniMax-M2.5") },
    Host {
        bends: Bends::Enable,
        ..cloud("qwen", "Qwen", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", &["DASHSCOPE_API_KEY", "QWEN_API_KEY"], "qwen3-max")
    },
    cloud("huggingface", "Hugging Face", "https://router.huggingface.co/v1", &["HUGGINGFACE_HUB_TOKEN", "HF_TOKEN"], ""),
    cloud("venice", "Venice", "https://api.venice.ai/api/v1", &["VENICE_API_KEY"], ""),
    Host { api: "anthropic-messages", ..cloud("vercel-ai-gateway", "Vercel AI Gateway", "https://ai-gateway.vercel.sh", &["AI_GATEWAY_API_KEY"], "") },
    local("ollama", "Ollama", "http://127.0.0.1:11434/v1", &["OLLAMA_API_KEY"], 11434),
    local("lmstudio", "LM Studio", "http://127.0.0.1:1234/v1", &["LMSTUDIO_API_KEY"], 1234),
    local("litellm", "LiteLLM", "http://127.0.0.1:4000", &["LITELLM_API_KEY", "LITELLM_MASTER_KEY"], 4000),
    local("vllm", "vLLM", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"], 8000),
    local("llamacpp", "llama.cpp", "http://127.0.0.1:8080/v1", &["LLAMA_API_KEY"], 8080),
];

/// The hosts that are looked for on this machine when nothing is configured.
pub const PROBED: &[&str] = &["ollama", "lmstudio", "litellm"];

/// Finds a host by its id or another spelling, letter case aside.
#[must_use]
pub fn host(id: &str) -> Option<&'static Host> {
    HOSTS.iter().find(|h| h.id.eq_ignore_ascii_case(id) || h.also.iter().any(|a| a.eq_ignore_ascii_case(id)))
}

/// A known model.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The maker's host id, for listing.
    pub host: &'static str,
    /// Its id begins like this; the longest match wins. Dates and previews follow it.
    pub prefix: &'static str,
    /// For people.
    pub name: &'static str,
    /// Tokens it sees.
    pub context: u32,
    /// Tokens it writes.
    pub output: u32,
    /// Whether it reasons.
    pub reasoning: bool,
    /// Whether it reads pictures.
    pub images: bool,
    /// US dollars per million tokens: input, output, cache read, cache write.
    pub price: [f64; 4],
}

impl Known {
    /// Its prices.
    #[must_use]
    pub const fn cost(&self) -> Cost {
        let [input, output, cache_read, cache_write] = self.price;
        Cost { input, output, cache_read, cache_write }
    }
}

const Y: bool = true;
const N: bool = false;

#[expect(clippy::too_many_arguments, reason = "one row of a table")]
const fn m(host: &'static str, prefix: &'static str, name: &'static str, context: u32, output: u32, reasoning: bool, images: bool, price: [f64; 4]) -> Known {
    Known { host, prefix, name, context, output, reasoning, images, price }
}

/// Known models: limits and list prices as published; the config overrides every field.
pub const MODELS: &[Known] = &[
    m("anthropic", "claude-opus-4-6", "Claude Opus 4.6", 200_000, 128_000, Y, Y, [5.0, 25.0, 0.5, 6.25]),
    m("anthropic", "claude-opus-4-5", "Claude Opus 4.5", 200_000, 64_000, Y, Y, [5.0, 25.0, 0.5, 6.25]),
    m("anthropic", "claude-opus-4", "Claude Opus 4", 200_000, 32_000, Y, Y, [15.0, 75.0, 1.5, 18.75]),
    m("anthropic", "claude-sonnet-4-6", "Claude Sonnet 4.6", 200_000, 64_000, Y, Y, [3.0, 15.0, 0.3, 3.75]),
    m("anthropic", "claude-sonnet-4", "Claude Sonnet 4", 200_000, 64_000, Y, Y, [3.0, 15.0, 0.3, 3.75]),
    m("anthropic", "claude-haiku-4-5", "Claude Haiku 4.5", 200_000, 64_000, Y, Y, [1.0, 5.0, 0.1, 1.25]),
    m("anthropic", "claude-3-7-sonnet", "Claude Sonnet 3.7", 200_000, 64_000, Y, Y, [3.0, 15.0, 0.3, 3.75]),
    m("anthropic", "claude-3-5-haiku", "Claude Haiku 3.5", 200_000, 8_192, N, Y, [0.8, 4.0, 0.08, 1.0]),
    m("openai", "gpt-5.4", "GPT-5.4", 400_000, 128_000, Y, Y, [2.5, 15.0, 0.25, 0.0]),
    m("openai", "gpt-5.2", "GPT-5.2", 400_000, 128_000, Y, Y, [1.75, 14.0, 0.175, 0.0]),
    m("openai", "gpt-5-mini", "GPT-5 mini", 400_000, 128_000, Y, Y, [0.25, 2.0, 0.025, 0.0]),
    m("openai", "gpt-5-nano", "GPT-5 nano", 400_000, 128_000, Y, Y, [0.05, 0.4, 0.005, 0.0]),
    m("openai", "gpt-5", "GPT-5", 400_000, 128_000, Y, Y, [1.25, 10.0, 0.125, 0.0]),
    m("openai", "gpt-4.1-mini", "GPT-4.1 mini", 1_047_576, 32_768, N, Y, [0.4, 1.6, 0.1, 0.0]),
    m("openai", "gpt-4.1", "GPT-4.1", 1_047_576, 32_768, N, Y, [2.0, 8.0, 0.5, 0.0]),
    m("openai", "gpt-4o-mini", "GPT-4o mini", 128_000, 16_384, N, Y, [0.15, 0.6, 0.075, 0.0]),
    m("openai", "gpt-4o", "GPT-4o", 128_000, 16_384, N, Y, [2.5, 10.0, 1.25, 0.0]),
    m("openai", "o4-mini", "o4-mini", 200_000, 100_000, Y, Y, [1.1, 4.4, 0.275, 0.0]),
    m("openai", "o3", "o3", 200_000, 100_000, Y, Y, [2.0, 8.0, 0.5, 0.0]),
    m("zai", "glm-5", "GLM-5", 200_000, 128_000, Y, N, [1.0, 3.2, 0.2, 0.0]),
    m("zai", "glm-4.7", "GLM-4.7", 200_000, 128_000, Y, N, [0.6, 2.2, 0.11, 0.0]),
    m("zai", "glm-4.6v", "GLM-4.6V", 128_000, 32_768, Y, Y, [0.3, 0.9, 0.05, 0.0]),
    m("zai", "glm-4.6", "GLM-4.6", 200_000, 128_000, Y, N, [0.6, 2.2, 0.11, 0.0]),
    m("zai", "glm-4.5-air", "GLM-4.5 Air", 128_000, 96_000, Y, N, [0.2, 1.1, 0.03, 0.0]),
    m("zai", "glm-4.5", "GLM-4.5", 128_000, 96_000, Y, N, [0.6, 2.2, 0.11, 0.0]),
    m("google", "gemini-2.5-flash", "Gemini 2.5 Flash", 1_048_576, 65_536, Y, Y, [0.3, 2.5, 0.075, 0.0]),
    m("google", "gemini-2.5-pro", "Gemini 2.5 Pro", 1_048_576, 65_536, Y, Y, [1.25, 10.0, 0.31, 0.0]),
    m("groq", "openai/gpt-oss-120b", "GPT-OSS 120B", 131_072, 65_536, Y, N, [0.15, 0.6, 0.075, 0.0]),
    m("groq", "openai/gpt-oss-20b", "GPT-OSS 20B", 131_072, 65_536, Y, N, [0.075, 0.3, 0.037, 0.0]),
    m("mistral", "mistral-large", "Mistral Large", 262_144, 262_144, N, Y, [0.5, 1.5, 0.0, 0.0]),
    m("mistral", "mistral-medium", "Mistral Medium", 131_072, 131_072, N, Y, [0.4, 2.0, 0.0, 0.0]),
    m("mistral", "mistral-small", "Mistral Small", 131_072, 131_072, N, Y, [0.1, 0.3, 0.0, 0.0]),
    m("deepseek", "deepseek-chat", "DeepSeek Chat", 131_072, 8_192, N, N, [0.28, 0.42, 0.028, 0.0]),
    m("deepseek", "deepseek-reasoner", "DeepSeek Reasoner", 131_072, 65_536, Y, N, [0.28, 0.42, 0.028, 0.0]),
    m("xai", "grok-4-fast", "Grok 4 Fast", 2_000_000, 30_000, Y, Y, [0.2, 0.5, 0.05, 0.0]),
    m("xai", "grok-4", "Grok 4", 256_000, 64_000, Y, Y, [3.0, 15.0, 0.75, 0.0]),
    m("moonshot", "kimi-k2.5", "Kimi K2.5", 262_144, 32_768, Y, Y, [0.6, 3.0, 0.1, 0.0]),
    m("minimax", "MiniMax-M2.5", "MiniMax M2.5", 204_800, 131_072, Y, N, [0.3, 1.2, 0.03, 0.375]),
    m("qwen", "qwen3-max", "Qwen3 Max", 262_144, 65_536, Y, N, [1.2, 6.0, 0.24, 0.0]),
];

/// What is known of a model id at a host. Hosts that pass other makers' models on (`litellm`, `openrouter`) name
/// them `maker/model`; then the limits of the maker's model are taken, and no prices.
#[must_use]
pub fn known(host: &str, model: &str) -> Option<(&'static Known, bool)> {
    let longest = |host: &str, model: &str| {
        MODELS
            .iter()
            .filter(|k| k.host == host && model.strip_prefix(k.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '@', ':', '.'])))
            .max_by_key(|k| k.prefix.len())
    };
    if let Some(found) = longest(host, model) {
        return Some((found, true));
    }
    let (maker, rest) = model.split_once('/')?;
    longest(self::host(maker)?.id, rest).map(|k| (k, false))
}

#[cfg(test)]
mod tests {
    use super::{HOSTS, MODELS, PROBED, host, known};

    #[test]
    fn rows_fit_together() {
        for h in HOSTS {
            assert!(crate::spec::Dialect::parse(h.api).is_some(), "{}", h.id);
            assert_eq!(host(h.id).unwrap().id, h.id);
            assert!(!h.base_url.ends_with('/'), "{}", h.id);
            assert!(h.env.iter().all(|e| e.chars().all(|c| c.is_ascii_uppercase() || c == '_')), "{}", h.id);
        }
        for k in MODELS {
            assert!(host(k.host).is_some(), "{}", k.prefix);
            assert!(k.output <= k.context, "{}", k.prefix);
        }
        assert!(PROBED.iter().all(|p| host(p).unwrap().local_port != 0));
    }

    #[test]
    fn the_longest_prefix_wins_and_passed_on_models_have_no_price() {
        assert_eq!(known("anthropic", "claude-opus-4-6-20260205").unwrap().0.name, "Claude Opus 4.6");
        assert_eq!(known("anthropic", "claude-opus-4-1").unwrap().0.name, "Claude Opus 4");
        assert_eq!(known("zai", "glm-4.6v").unwrap().0.name, "GLM-4.6V");
        assert!(known("zai", "glm-55").is_none());
        let (k, priced) = known("litellm", "anthropic/claude-sonnet-4-6").unwrap();
        assert_eq!((k.name, priced), ("Claude Sonnet 4.6", false));
        assert!(known("litellm", "ollama/llama3.1").is_none());
        assert_eq!(host("Z.AI").unwrap().id, "zai");
    }
}
