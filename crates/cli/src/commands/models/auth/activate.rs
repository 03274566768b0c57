use std::time::Duration;

use clawstead_providers::{Models, ModelsInput, provider_id};
use clawstead_world::World;

use super::{Keyring, order};
use crate::{commands::Outcome, fail::Fail, format::text, print};

/// Time for the trial, milliseconds.
const TRIAL_MS: u64 = 60_000;

/// Try a stored credential and prefer it.
#[derive(clap::Args)]
pub struct Args {
    /// Profile, as `models auth list` shows it
    profile: String,
}

/// `activate`: asks the provider with this credential alone; when it answers, it comes first.
pub fn run(args: &Args, keys: &Keyring<'_>) -> Outcome {
    let store = keys.file.read()?;
    let Some(row) = store["profiles"].get(&args.profile) else {
        return Err(Fail::new(format!("There is no stored credential \"{}\".", args.profile)).hint("openclaw models auth list"));
    };
    let provider = provider_id(Some(text(row, "provider")).filter(|p| !p.is_empty()).unwrap_or_else(|| args.profile.split(':').next().unwrap_or_default()));
    let mut input = ModelsInput::from_config(keys.config, Some(&store));
    input.profiles.retain(|profile| profile.id == args.profile);
    for profile in &mut input.profiles {
        profile.file = Some(keys.file.path().to_path_buf());
    }
    input.env_keys.clear();
    if let Some(section) = input.providers.get_mut(&provider) {
        section.api_keys.clear();
    }
    let world = World::real().map_err(|err| Fail::new(err.to_string()))?;
    let models = Models::new(world, input);
    let tried = keys.cx.block_on(async { Ok(models.try_provider(&provider, Duration::from_millis(TRIAL_MS)).await) })?;
    match tried {
        Ok(model) => print::line(&format!("{} works ({model} answered).", args.profile)),
        Err(error) => return Err(Fail::new(format!("{} was not activated: {error}", args.profile)).hint("openclaw models auth list")),
    }
    let mut ids = keys.ids(Some(&provider))?;
    ids.retain(|id| *id != args.profile);
    ids.insert(0, args.profile.clone());
    order::set(keys, &provider, &ids)?;
    print::line(&format!("Order of {provider}: {}", ids.join(", ")));
    Ok(0)
}
