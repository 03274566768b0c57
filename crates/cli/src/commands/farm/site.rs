//! What the offline commands stand on: the farm of the config, its coordination store, this gateway's key files and the
//! farm's root.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc};

use clawstead_bus::{CasError, Coord, CoordError};
use clawstead_cluster::{
    Now,
    keys::{KEY_LIFE_DEFAULT_MS, KeyFileError, KeyRecord, KeyRing, RootPin, RotationError},
};
use clawstead_config::{CoordKind, FarmConfig};
use clawstead_farm::{
    engines::{self, EngineError},
    enrol::EnrolError,
    key_files::{KeyError, KeyFolder, load_root},
    root_pin,
};
use clawstead_terms::Millis;
use clawstead_world::World;

use crate::{
    cx::Cx,
    fail::Fail,
    format::{now_ms, relative},
};

/// One day, ms.
pub const DAY_MS: i64 = 86_400_000;
/// A key is valid from a little before its approval, so that gateways whose clocks are behind believe it, ms.
pub const BEFORE_MS: i64 = 300_000;
/// Days that a key signs when nothing else is said.
pub const DAYS: u16 = 90;

/// The farm of a config, opened. Nothing was asked of its engines yet.
pub struct Site {
    /// `farm`.
    pub farm: FarmConfig,
    /// The farm's name.
    pub id: String,
    /// This gateway's name in it.
    pub gateway: String,
    /// Clock, chance, HTTP.
    pub world: World,
    /// The coordination store.
    pub coord: Arc<dyn Coord>,
    /// This gateway's keys.
    pub keys: KeyFolder,
}

impl Site {
    /// Opens the farm of the config file. Call inside a runtime.
    ///
    /// # Errors
    /// When there is none, or it shares nothing with other gateways.
    pub fn of(cx: &Cx) -> Result<Self, Fail> {
        let (_, loaded) = cx.loaded()?;
        let farm = loaded.config.farm.as_ref().ok_or_else(no_farm)?;
        Self::open(cx, farm)
    }

    /// Opens a farm. Call inside a runtime.
    ///
    /// # Errors
    /// When it shares nothing with other gateways, or an engine cannot be used as it is configured.
    pub fn open(cx: &Cx, farm: &FarmConfig) -> Result<Self, Fail> {
        let (Some(id), Some(gateway)) = (farm.id.clone(), farm.gateway.clone()) else {
            return Err(
                Fail::new("The farm in the config has no id or no gateway: this gateway is alone.").hint("openclaw farm enroll --id <farm> --gateway <name>")
            );
        };
        if farm.coord.kind == CoordKind::Embedded {
            return Err(Fail::new("farm.coord.kind is \"embedded\": this gateway is alone, and nobody else can see its keys.")
                .hint("openclaw config set farm.coord.kind consul"));
        }
        let world = World::real().map_err(|err| Fail::new(err.to_string()))?;
        let coord = engines::open(farm, &id, &gateway, &world)?.coord;
        Ok(Self { farm: farm.clone(), id, gateway, world, coord, keys: KeyFolder::of(&cx.paths.state_dir) })
    }

    /// The roots that the config pins.
    ///
    /// # Errors
    /// When there is none or one is no key.
    pub fn pins(&self) -> Result<Vec<RootPin>, Fail> {
        let pins: Vec<RootPin> = self.farm.roots.iter().map(|text| pin(text)).collect::<Result<_, _>>()?;
        if pins.is_empty() {
            return Err(Fail::new("farm.roots is empty: no key of another gateway can be believed.").hint("openclaw config set farm.roots '[\"<root>\"]'"));
        }
        Ok(pins)
    }

    /// A ring that knows these records; with it, why some are not believed.
    ///
    /// # Errors
    /// When the config pins no root, or more than two.
    pub fn ring(&self, records: &[KeyRecord]) -> Result<(KeyRing, Vec<clawstead_cluster::keys::Skipped>), Fail> {
        let mut ring = KeyRing::new(self.pins()?).map_err(|err| Fail::new(err.to_string()))?;
        let skipped = ring.replace(records, 0);
        Ok((ring, skipped))
    }

    /// The farm's root from its file; it must be one that the config pins.
    ///
    /// # Errors
    /// When it cannot be read or is another farm's.
    pub fn root(&self, cx: &Cx, file: Option<&PathBuf>) -> Result<clawstead_cluster::keys::FarmRoot, Fail> {
        let path = root_file(cx, file);
        let root = load_root(&path)?;
        let pins = self.pins()?;
        if !pins.contains(&root.pin()) {
            let known: Vec<&str> = pins.iter().map(RootPin::kid).collect();
            let message = format!(
                "{} is {}, and farm.roots pins {}: a key signed with it would be believed nowhere.",
                path.display(),
                root.pin().kid(),
                known.join(", ")
            );
            return Err(Fail::new(message).hint("--root-file <path of the farm's root>"));
        }
        Ok(root)
    }
}

/// Where the root lies: the flag, else the state folder.
#[must_use]
pub fn root_file(cx: &Cx, flag: Option<&PathBuf>) -> PathBuf {
    flag.map_or_else(|| cx.paths.state_dir.join("farm-root.pem"), |path| cx.paths.expand(&path.to_string_lossy()))
}

/// A root as the config may write it: hex, or base64 of either alphabet.
///
/// # Errors
/// When it is no public key.
pub fn pin(text: &str) -> Result<RootPin, Fail> {
    root_pin(text).map_err(|why| {
        Fail::new(format!("{text:?} is no root of a farm: {why}.")).hint("openclaw farm init printed it; openclaw config get farm.roots on another gateway")
    })
}

/// From when until when a key approved now is valid: it signs for `days`, and is remembered for the time its last
/// letters need.
#[must_use]
pub fn validity(now: Millis, days: u16) -> (Millis, Millis) {
    (now.plus(-BEFORE_MS), now.plus(KEY_LIFE_DEFAULT_MS + (i64::from(days) - i64::from(DAYS)) * DAY_MS))
}

/// Now, for questions to a ring that was filled just now.
#[must_use]
pub fn fresh_now() -> Now {
    Now { wall: Millis(now_ms()), mono_ms: 0 }
}

/// `3m ago`, `in 5d`.
#[must_use]
pub fn when(at: Millis) -> String {
    relative(Some(at.0))
}

/// What a question on the terminal may be answered with beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// `--yes`.
    Given,
    /// Ask.
    Ask,
}

impl Consent {
    /// From the flag.
    #[must_use]
    pub const fn from_flag(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Ask }
    }

    /// Asks unless it was given.
    ///
    /// # Errors
    /// When nobody can be asked; a no ends the command with exit code 1.
    pub fn to(self, question: &str) -> Result<(), Fail> {
        if self == Self::Given {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Fail::new(format!("{question} In a script this needs --yes.")).hint("add --yes"));
        }
        if cliclack::confirm(question).initial_value(false).interact()? { Ok(()) } else { Err(Fail::silent(1)) }
    }
}

/// True when Ctrl-C or a request to end is what ended a command.
#[must_use]
pub fn stopped<T>(done: &Result<T, Fail>) -> bool {
    done.as_ref().is_err_and(|fail| fail.said && fail.exit > 128)
}

/// There is no farm here.
#[must_use]
pub fn no_farm() -> Fail {
    Fail::new("This gateway is in no farm: the config has no farm section.").hint("openclaw farm init (a new farm), or openclaw farm join <invitation>")
}

const STORE_HINT: &str = "openclaw config get farm.coord (does that server run, and is it reachable from here?)";

impl From<CoordError> for Fail {
    fn from(err: CoordError) -> Self {
        let hint = match err {
            CoordError::Denied { .. } => "openclaw config get farm.coord (does its token have the rights that docs/runbook/farm-keys.md names?)",
            _ => STORE_HINT,
        };
        Self::new(format!("The farm's coordination store: {err}.")).hint(hint)
    }
}

impl From<CasError> for Fail {
    fn from(err: CasError) -> Self {
        match err {
            CasError::Coord(err) => err.into(),
            other => Self::new(format!("The farm's coordination store: {other}.")).hint("the same command again"),
        }
    }
}

impl From<EnrolError> for Fail {
    fn from(err: EnrolError) -> Self {
        match err {
            EnrolError::Coord(err) => err.into(),
            EnrolError::Cas(err) => err.into(),
            other => Self::new(format!("{other}.")).hint("openclaw farm requests, openclaw farm keys"),
        }
    }
}

impl From<KeyError> for Fail {
    fn from(err: KeyError) -> Self {
        Self::new(format!("{err}.")).hint("docs/runbook/farm-keys.md says where each key lies")
    }
}

impl From<KeyFileError> for Fail {
    fn from(err: KeyFileError) -> Self {
        Self::new(format!("{err}."))
    }
}

impl From<EngineError> for Fail {
    fn from(err: EngineError) -> Self {
        Self::new(format!("{err}.")).hint("openclaw config get farm")
    }
}

impl From<RotationError> for Fail {
    fn from(err: RotationError) -> Self {
        Self::new(format!("{err}.")).hint("openclaw farm keys")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    use clawstead_cluster::keys::FarmRoot;
    use clawstead_terms::Millis;
    use clawstead_world::SeededRng;

    use super::{BEFORE_MS, DAY_MS, pin, validity};

    #[test]
    fn a_root_is_read_in_every_form_that_the_config_takes() {
        let root = FarmRoot::generate(&SeededRng::new(5)).pin();
        let raw = URL_SAFE_NO_PAD.decode(root.text()).unwrap();
        for text in [root.text(), hex::encode(&raw), STANDARD.encode(&raw)] {
            assert_eq!(pin(&text).unwrap(), root, "{text}");
        }
        assert!(pin("x").is_err() && pin("").is_err());
    }

    #[test]
    fn a_key_signs_for_its_days_and_is_remembered_a_day_longer() {
        let (from, until) = validity(Millis(0), 30);
        assert_eq!((from.0, until.0), (-BEFORE_MS, 31 * DAY_MS + 600_000));
    }
}
