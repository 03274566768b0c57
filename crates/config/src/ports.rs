use std::ops::RangeInclusive;

/// The port of a gateway that names none.
pub const DEFAULT_PORT: u16 = 18789;
/// The port of `--dev`.
pub const DEV_PORT: u16 = 19001;
/// Bases closer than this share browser ports.
pub const SAFE_SPACING: u16 = 120;

/// The ports a gateway uses beside its base port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedPorts {
    /// WebSocket, HTTP, dashboard, webhooks, canvas.
    pub base: u16,
    /// base + 1: the removed node bridge. Nothing listens there.
    pub bridge: u16,
    /// base + 2: browser control, loopback.
    pub browser_control: u16,
    /// base + 3: browser extension relay, loopback.
    pub browser_relay: u16,
    /// base + 4: the old canvas listener; only used when `canvasHost.port` is set.
    pub canvas: u16,
    /// base + 11 ..= base + 110: remote debugging ports of browser profiles, given out from the bottom.
    pub cdp: RangeInclusive<u16>,
}

/// The ports that follow from a base port. A value above 65535 falls back to the one of the default base.
#[must_use]
pub fn derived_ports(base: u16) -> DerivedPorts {
    let plus = |n: u16| base.checked_add(n).unwrap_or(DEFAULT_PORT + n);
    let browser_control = plus(2);
    let start = browser_control.checked_add(9).unwrap_or(DEFAULT_PORT + 11);
    let end = browser_control.checked_add(108).unwrap_or(DEFAULT_PORT + 110);
    DerivedPorts {
        base,
        bridge: plus(1),
        browser_control,
        browser_relay: browser_control.checked_add(1).unwrap_or(DEFAULT_PORT + 3),
        canvas: plus(4),
        cdp: start..=end.max(start),
    }
}

impl DerivedPorts {
    /// The first browser port that is not in `used`.
    #[must_use]
    pub fn free_cdp_port(&self, used: &[u16]) -> Option<u16> {
        self.cdp.clone().find(|p| !used.contains(p))
    }

    fn single(&self) -> [(&'static str, u16); 4] {
        [("gateway", self.base), ("browser control", self.browser_control), ("browser relay", self.browser_relay), ("canvas", self.canvas)]
    }
}

/// One gateway for [`overlaps`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUser {
    /// How to name it: profile or state folder.
    pub name: String,
    /// Its base port.
    pub base: u16,
    /// What else it opens.
    pub surfaces: Surfaces,
}

/// Which listeners beside the base port a gateway opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Surfaces {
    /// Only the base port.
    #[default]
    BaseOnly,
    /// Browser control, relay and profiles too.
    Browser,
    /// Browser and the old canvas listener.
    BrowserAndCanvas,
}

/// How much two gateways disturb each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverlapKind {
    /// Only the pools of browser ports meet; ports in use are passed over when they are given out.
    Pool,
    /// A fixed listener of one falls into the browser pool of the other.
    ListenerInPool,
    /// Both want the same port: the second cannot open it.
    SamePort,
}

/// Two gateways that want the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Name of the first.
    pub first: String,
    /// Name of the second.
    pub second: String,
    /// What of both meets, and where.
    pub message: String,
    /// The lowest port they share.
    pub port: u16,
    /// How bad.
    pub kind: OverlapKind,
}

/// Every pair of gateways that share a port, worst first within a pair. Nothing is opened.
#[must_use]
pub fn overlaps(gateways: &[PortUser]) -> Vec<Overlap> {
    let mut out = Vec::new();
    for (i, a) in gateways.iter().enumerate() {
        for b in &gateways[i + 1..] {
            pair(a, b, &mut out);
        }
    }
    out
}

fn listeners(g: &PortUser) -> Vec<(&'static str, u16)> {
    let take = match g.surfaces {
        Surfaces::BaseOnly => 1,
        Surfaces::Browser => 3,
        Surfaces::BrowserAndCanvas => 4,
    };
    derived_ports(g.base).single().into_iter().take(take).collect()
}

fn pair(a: &PortUser, b: &PortUser, out: &mut Vec<Overlap>) {
    let mut push = |port, kind, message| out.push(Overlap { first: a.name.clone(), second: b.name.clone(), message, port, kind });
    for (what_a, port_a) in listeners(a) {
        for (what_b, port_b) in listeners(b) {
            if port_a == port_b {
                push(port_a, OverlapKind::SamePort, format!("{what_a} of {} and {what_b} of {} both use port {port_a}", a.name, b.name));
            }
        }
    }
    for (x, y) in [(a, b), (b, a)] {
        if y.surfaces != Surfaces::BaseOnly {
            let pool = derived_ports(y.base).cdp;
            for (what, port) in listeners(x).into_iter().filter(|(_, p)| pool.contains(p)) {
                push(port, OverlapKind::ListenerInPool, format!("{what} of {} on port {port} lies in the browser ports of {}", x.name, y.name));
            }
        }
    }
    if a.surfaces != Surfaces::BaseOnly && b.surfaces != Surfaces::BaseOnly {
        let (pa, pb) = (derived_ports(a.base).cdp, derived_ports(b.base).cdp);
        let (start, end) = (*pa.start().max(pb.start()), *pa.end().min(pb.end()));
        if start <= end {
            push(
                start,
                OverlapKind::Pool,
                format!("browser ports of {} and {} share {start}-{end}; base ports {SAFE_SPACING} apart share none", a.name, b.name),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_base() {
        let p = derived_ports(18789);
        assert_eq!((p.bridge, p.browser_control, p.browser_relay, p.canvas), (18790, 18791, 18792, 18793));
        assert_eq!(p.cdp, 18800..=18899);
        let p = derived_ports(19001);
        assert_eq!((p.browser_control, p.cdp), (19003, 19012..=19111));
        let p = derived_ports(65535);
        assert_eq!((p.browser_control, p.cdp), (18791, 18800..=18899));
        let p = derived_ports(65500);
        assert_eq!((p.browser_control, p.cdp), (65502, 65511..=65511));
        assert_eq!(derived_ports(18789).free_cdp_port(&[18800, 18801]), Some(18802));
    }

    #[test]
    fn gateways_that_share_ports_are_named() {
        let g = |name: &str, base, surfaces| PortUser { name: name.into(), base, surfaces };
        let kinds = |list: &[PortUser]| overlaps(list).into_iter().map(|o| (o.kind, o.port)).collect::<Vec<_>>();
        assert!(kinds(&[g("a", 18789, Surfaces::BaseOnly), g("b", 18809, Surfaces::BaseOnly)]).is_empty());
        assert_eq!(
            kinds(&[g("a", 18789, Surfaces::Browser), g("b", 18809, Surfaces::Browser)]),
            [(OverlapKind::ListenerInPool, 18809), (OverlapKind::ListenerInPool, 18811), (OverlapKind::ListenerInPool, 18812), (OverlapKind::Pool, 18820)]
        );
        assert_eq!(kinds(&[g("a", 18789, Surfaces::BaseOnly), g("b", 18789, Surfaces::BaseOnly)]), [(OverlapKind::SamePort, 18789)]);
        assert_eq!(kinds(&[g("a", 18789, Surfaces::Browser), g("b", 18791, Surfaces::BaseOnly)]), [(OverlapKind::SamePort, 18791)]);
        assert!(kinds(&[g("a", 18789, Surfaces::BrowserAndCanvas), g("b", 18909, Surfaces::BrowserAndCanvas)]).is_empty());
    }
}
