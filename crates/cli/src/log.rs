//! Log lines of a running gateway on the console.

use std::fmt;

use owo_colors::OwoColorize as _;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// `12:03:11 warn  gateway/doors/ws  text key=value`, coloured on a terminal.
pub struct Pretty {
    /// Whether colours may be used.
    pub colour: bool,
}

impl<S, N> FormatEvent<S, N> for Pretty
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let target = meta.target();
        let subsystem = target.strip_prefix("clawstead_").unwrap_or(target).replace("::", "/");
        let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        let level = match *meta.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        if self.colour {
            let level = match *meta.level() {
                Level::ERROR => format!("{}", format!("{level:<5}").red()),
                Level::WARN => format!("{}", format!("{level:<5}").yellow()),
                Level::INFO => format!("{}", format!("{level:<5}").green()),
                _ => format!("{}", format!("{level:<5}").dimmed()),
            };
            write!(out, "{} {level} {} ", time.dimmed(), format!("[{subsystem}]").cyan())?;
        } else {
            write!(out, "{time} {level:<5} [{subsystem}] ")?;
        }
        cx.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// The filter of a level word.
#[must_use]
pub fn filter(word: &str) -> LevelFilter {
    match word {
        "silent" => LevelFilter::OFF,
        "fatal" | "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    }
}

/// Our own crates at `level`, everything else at warnings (at `trace` everything).
#[must_use]
pub fn targets(level: LevelFilter) -> tracing_subscriber::filter::Targets {
    let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let own = ["terms", "world", "wire", "config", "state", "providers", "channels", "tools", "agent", "gateway", "tui", "cli"];
    tracing_subscriber::filter::Targets::new()
        .with_default(others)
        .with_targets(own.map(|name| (format!("clawstead_{name}"), level)))
        .with_target("openclaw", level)
}
