//! The one binary: arguments, commands, printing.
//!
//! [`globals`] takes the global flags out of the argument list and rewrites old spellings, [`commands`] holds one file
//! for each noun and verb, [`rpc`] talks to a gateway, [`fail`] and [`print`] say what happened.

mod commands;
mod complain;
mod cx;
mod device;
mod fail;
mod format;
mod globals;
mod local;
mod log;
mod pages;
mod print;
mod reference;
mod rpc;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::{commands::Cli, cx::Cx, fail::Fail, globals::Globals};

/// The OpenClaw version whose command line this follows.
pub const COMPATIBLE: &str = clawstead_wire::limits::COMPATIBLE_VERSION;
/// Our own version.
pub const OWN: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    // Fails only when a provider is there already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ExitCode::from(run(std::env::args().collect()))
}

fn run(argv: Vec<String>) -> u8 {
    let (globals, args) = match Globals::extract(argv) {
        Ok(parted) => parted,
        Err(message) => {
            eprintln!("[openclaw] {message}");
            return 2;
        }
    };
    if globals.version {
        println!("OpenClaw {COMPATIBLE} (clawstead {OWN})");
        return 0;
    }
    globals.apply_colour();
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let parsed = Cli::command().try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(err) => return complain::about(&err, &args, json),
    };
    let cx = match Cx::new(globals, json) {
        Ok(cx) => cx,
        Err(fail) => return fail.show(json),
    };
    commands::run(cli, &cx).unwrap_or_else(|fail: Fail| fail.show(cx.json))
}
