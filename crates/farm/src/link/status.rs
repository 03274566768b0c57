//! What `farm status` shows of links.

use clawstead_terms::Millis;
use serde::Serialize;

use super::Direction;

/// All links of this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinksStatus {
    /// Where we listen; none: only outgoing links.
    pub listen: Option<String>,
    /// The key our certificate is for.
    pub kid: String,
    /// The number of our certificate, hex.
    pub certificate_serial: String,
    /// When our certificate ends. It is renewed before.
    pub certificate_not_after: Millis,
    /// Connections that were refused since the start.
    pub refused: u64,
    /// The last one: when, from where, why.
    pub last_refused: Option<(Millis, String, String)>,
    /// By name.
    pub peers: Vec<PeerStatus>,
}

/// Links with one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its name.
    pub gateway: String,
    /// Open ones.
    pub links: Vec<LinkStatus>,
    /// Attempts to connect in a row that failed.
    pub failures: u32,
    /// When and why the last attempt failed or the last link was lost.
    pub last_error: Option<(Millis, String)>,
    /// Calls made to it since the start.
    pub calls: u64,
    /// Calls of it answered since the start.
    pub served: u64,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// Who opened it.
    pub direction: Direction,
    /// The other end.
    pub address: String,
    /// Since when.
    pub since: Millis,
    /// The key the peer showed.
    pub kid: String,
    /// The number of the certificate the peer showed, hex.
    pub certificate_serial: String,
    /// Which start of the peer this is.
    pub incarnation: u64,
    /// The version of the peer.
    pub build: String,
    /// Round trip, microseconds, once known.
    pub rtt_us: Option<u64>,
    /// Calls that wait for the peer.
    pub waiting: usize,
    /// Calls of the peer that run here.
    pub serving: usize,
    /// It takes no more calls and closes when those under way are done.
    pub draining: bool,
}
