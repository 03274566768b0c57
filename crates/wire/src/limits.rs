//! Sizes, times and close codes of the protocol.

/// The protocol version we speak.
pub const PROTOCOL: u32 = 4;
/// The oldest version that nodes and probes may use.
pub const PROTOCOL_PROBE_MIN: u32 = 3;
/// The OpenClaw release whose behaviour we answer with.
pub const COMPATIBLE_VERSION: &str = "2026.9.6";

/// Largest frame before `hello-ok`, bytes.
pub const PREAUTH_FRAME_BYTES_MAX: usize = 65_536;
/// Largest frame after `hello-ok`, bytes.
pub const FRAME_BYTES_MAX: usize = 26_214_400;
/// Bytes queued on one socket before it counts as a slow consumer.
pub const BUFFERED_BYTES_MAX: usize = 52_428_800;
/// Frames a client may send while its `connect` is being processed.
pub const HANDSHAKE_QUEUE_MAX: usize = 15;
/// Unauthenticated sockets of one client address.
pub const PREAUTH_SOCKETS_PER_IP_MAX: usize = 32;
/// Time from accept to `connect`, milliseconds.
pub const HANDSHAKE_MS: u64 = 15_000;
/// Time between `tick` events, milliseconds.
pub const TICK_MS: u64 = 30_000;
/// Time between WebSocket pings, milliseconds; a pong must come within the same time.
pub const PING_MS: u64 = 25_000;
/// Accepted difference of `device.signedAt` and our clock, milliseconds.
pub const DEVICE_SKEW_MS: i64 = 120_000;
/// Control-plane writes of one client and method in [`CONTROL_WINDOW_MS`].
pub const CONTROL_CALLS_MAX: u32 = 30;
/// The window of [`CONTROL_CALLS_MAX`], milliseconds.
pub const CONTROL_WINDOW_MS: i64 = 60_000;
/// Consecutive calls of methods of another role before the socket is closed.
pub const ROLE_FAULTS_MAX: u32 = 11;
/// Largest attachment, bytes.
pub const ATTACHMENT_BYTES_MAX: u64 = 19_464_192;
/// Largest image attachment, bytes.
pub const IMAGE_BYTES_MAX: u64 = 6_291_456;
/// Longest reason of a WebSocket close, bytes.
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Close codes.
pub mod close {
    /// Nothing to say: handshake timeout, garbage before the handshake.
    pub const NORMAL: u16 = 1000;
    /// Wrong protocol version.
    pub const PROTOCOL: u16 = 1002;
    /// Policy: authentication, pairing, slow consumer, floods.
    pub const POLICY: u16 = 1008;
    /// A frame was too large.
    pub const TOO_BIG: u16 = 1009;
    /// A fault of ours.
    pub const INTERNAL: u16 = 1011;
    /// The gateway restarts or stops.
    pub const RESTART: u16 = 1012;
    /// The gateway is starting or draining.
    pub const TRY_LATER: u16 = 1013;
    /// The credentials or policy of this connection changed.
    pub const AUTH_CHANGED: u16 = 4001;
}

/// Cuts a close reason to what a WebSocket close frame can carry, at a character boundary.
#[must_use]
pub fn close_reason(text: &str) -> &str {
    let mut end = text.len().min(CLOSE_REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
