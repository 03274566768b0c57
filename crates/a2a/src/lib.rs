//! The A2A protocol, version 1.0, outward and inward.
//!
//! - [`proto`]: its words, with version 0.3 beside them
//! - [`server`]: agents of this house for others, over JSON-RPC and over resources and verbs
//! - [`client`]: agents of others for this house
//! - [`sign`]: signatures of agent cards
//!
//! # Why our own code
//! There are crates of the protocol's organisation (`a2a-lf`, `a2a-server-lf`, `a2a-client-lf`). They are not used: what
//! is hard here is what a general crate leaves to its user. Tasks are stored before they are told, a message is taken
//! once, a caller sees only its own, push targets go through the guarded client of `world`, time and ids come from
//! `world`, and a task that was at work when the process ended is asked about. Doing that around foreign handlers is as
//! much code as the handlers. The crates are also young and change their interface often, bring `aws-lc` beside the ring
//! of everything else, and a protocol compiler into the build. What is left, types and framing over axum and serde, is
//! plain; the compatibility kit and the SDK for Python say whether it is right.

//!
//! # How it is checked
//! `tests/python_sdk.rs` runs the SDK for Python as caller (1.0 over both bindings, 0.3 over JSON-RPC, signatures of
//! cards) and as agent. The compatibility kit (`a2aproject/a2a-tck`, branch `1.0-dev`) runs from outside against the
//! example `echo_agent`, in three settings, because it can see a refusal only where something is not offered:
//!
//! | Arguments of the example | What the kit sees |
//! | --- | --- |
//! | `--anonymous --signed --takes '*/*' --push-host 127.0.0.1 --push-host localhost` | everything that is offered |
//! | `--anonymous --plain --takes '*/*'` | refusals of streams and push notifications |
//! | `--anonymous --require-extension urn:a2a:tck:required-extension` | the refusal without an extension |
//!
//! `--takes '*/*'`, because its requirement CORE-SEND-003 speaks of a refusal but is met by success only; that a media
//! type is refused is tested in `tests/bindings.rs`. `--anonymous`, because it brings no token and uses one message id
//! for many messages, which a named caller may not do.

pub mod client;
pub mod proto;
pub mod server;
pub mod sign;
