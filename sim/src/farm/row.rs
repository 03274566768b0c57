//! The rows of the fault matrix that a farm can be run under.

/// What goes wrong in a farm. The names are those of the fault matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// Letters are lost.
    M1,
    /// Letters come twice, also an hour later.
    M2,
    /// Letters are late.
    M3,
    /// Letters overtake each other.
    M4,
    /// Receipts are lost.
    M5,
    /// Letters come again when nobody remembers them.
    M6,
    /// Altered letters, foreign signatures, revoked keys, other farms.
    M7,
    /// Letters that went in a ring or too far.
    M8,
    /// Letters that break whoever handles them.
    M9,
    /// Letters of another version.
    M10,
    /// Letters whose time is over before somebody could take them.
    M11,
    /// Dead letters are sent again, twice.
    M13,
    /// Watches of the coordination store break, go back, are late.
    C6,
    /// Wall clocks are wrong and jump.
    T1,
    /// Many letters at once for one agent.
    Q1,
    /// Many letters at once for everybody.
    Q2,
    /// Signing keys change under load.
    K1,
    /// Gateways die and come back, at any write.
    G1,
    /// Gateways stand still and go on.
    G4,
    /// Gateways lose the coordination store, the bus, their disk.
    N1,
    /// Several of these together.
    X1,
}

impl Row {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::M1,
        Self::M2,
        Self::M3,
        Self::M4,
        Self::M5,
        Self::M6,
        Self::M7,
        Self::M8,
        Self::M9,
        Self::M10,
        Self::M11,
        Self::M13,
        Self::C6,
        Self::T1,
        Self::Q1,
        Self::Q2,
        Self::K1,
        Self::G1,
        Self::G4,
        Self::N1,
        Self::X1,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name().eq_ignore_ascii_case(text))
    }

    /// The row of a seed for which none was named.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let place = seed % Self::ALL.len() as u64;
        Self::ALL[usize::try_from(place).unwrap_or(0)]
    }
}
