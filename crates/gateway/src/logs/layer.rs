//! Writes log lines. Formatting happens where the event happens; writing happens on a thread of its own, so that a slow
//! disk never holds a turn up. When the queue is full, lines are dropped and the next line says how many.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::tail::file_of_today;

/// Lines that may wait for the disk.
const QUEUE_LINES_MAX: usize = 8_192;
/// Older files that are kept beside the current one when it is full: `.1` to `.5`.
const ROTATED_MAX: u32 = 5;

/// Where the log goes.
#[derive(Clone, Debug)]
pub struct FileLogOptions {
    /// The folder of the daily files.
    pub dir: PathBuf,
    /// A fixed file instead of daily ones (`logging.file`).
    pub file: Option<PathBuf>,
    /// Bytes of one file; 0 means no limit. Default of the config: 100 MiB.
    pub bytes_max: u64,
    /// The version in every line.
    pub version: &'static str,
}

/// The log file as a tracing layer. Dropping the last copy of the guard writes what waits.
pub struct FileLog {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
    host: String,
    version: &'static str,
}

/// Writes the rest and ends the thread when dropped.
pub struct FileLogGuard {
    thread: Mutex<Option<JoinHandle<()>>>,
    end: SyncSender<String>,
}

impl Drop for FileLogGuard {
    fn drop(&mut self) {
        // An empty line is the sign to stop; it waits its turn behind everything else.
        let _ = self.end.send(String::new());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl FileLog {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// When the thread cannot be started. A folder that cannot be written is said once on standard error, and the
    /// gateway goes on without a log file.
    pub fn open(options: FileLogOptions) -> std::io::Result<(Self, FileLogGuard)> {
        let (lines, waiting) = sync_channel(QUEUE_LINES_MAX);
        let version = options.version;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let thread = std::thread::Builder::new().name("log".into()).stack_size(256 << 10).spawn(move || write_lines(&options, &waiting))?;
        let guard = FileLogGuard { thread: Mutex::new(Some(thread)), end: lines.clone() };
        Ok((Self { lines, lost: Arc::new(AtomicU64::new(0)), host, version }, guard))
    }
}

fn write_lines(options: &FileLogOptions, waiting: &Receiver<String>) {
    let mut open: Option<(PathBuf, File, u64)> = None;
    let mut complained = false;
    while let Ok(line) = waiting.recv() {
        if line.is_empty() {
            return;
        }
        let path = options.file.clone().unwrap_or_else(|| options.dir.join(file_of_today()));
        let full = open.as_ref().is_some_and(|(_, _, size)| options.bytes_max > 0 && *size >= options.bytes_max);
        if full {
            rotate(&path);
        }
        if full || open.as_ref().is_none_or(|(current, ..)| *current != path) {
            open = match reopen(&path) {
                Ok((file, size)) => Some((path, file, size)),
                Err(err) => {
                    if !complained {
                        eprintln!("the log file {} cannot be written: {err}", path.display());
                        complained = true;
                    }
                    None
                }
            };
        }
        if let Some((_, file, size)) = &mut open
            && file.write_all(line.as_bytes()).is_ok()
        {
            *size += line.len() as u64;
        }
    }
}

fn reopen(path: &std::path::Path) -> std::io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn rotate(path: &std::path::Path) {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..ROTATED_MAX).rev() {
        let _ = std::fs::rename(numbered(n), numbered(n + 1));
    }
    let _ = std::fs::rename(path, numbered(1));
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.rest.insert(field.name().into(), Value::String(text));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.into();
        } else {
            self.rest.insert(field.name().into(), Value::String(value.into()));
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.insert(field.name().into(), json!(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.insert(field.name().into(), json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.insert(field.name().into(), json!(value));
    }
}

/// `clawstead_gateway::doors::ws` is shown as `gateway/doors/ws`.
fn subsystem(target: &str) -> String {
    target.strip_prefix("clawstead_").unwrap_or(target).replace("::", "/")
}

impl<S: Subscriber> Layer<S> for FileLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = jiff::Zoned::now();
        let (level_id, level) = match *event.metadata().level() {
            Level::TRACE => (1, "TRACE"),
            Level::DEBUG => (2, "DEBUG"),
            Level::INFO => (3, "INFO"),
            Level::WARN => (4, "WARN"),
            Level::ERROR => (5, "ERROR"),
        };
        let name = json!({"subsystem": subsystem(event.metadata().target())}).to_string();
        let mut text = fields.message;
        for (key, value) in &fields.rest {
            let _ = match value {
                Value::String(s) => write!(text, " {key}={s}"),
                other => write!(text, " {key}={other}"),
            };
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut line = json!({
            "0": name,
            "1": text,
            "_meta": {
                "runtime": "clawstead",
                "runtimeVersion": self.version,
                "hostname": self.host,
                "date": format!("{:.3}", now.timestamp()),
                "logLevelId": level_id,
                "logLevelName": level,
                "name": name,
                "parentNames": ["openclaw"],
            },
            "time": now.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
            "hostname": self.host,
            "message": text,
        });
        if lost > 0 {
            line["linesLost"] = json!(lost);
        }
        let mut line = line.to_string();
        line.push('\n');
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FileLog, FileLogOptions};
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn lines_have_the_shape_that_tools_read_and_are_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/x.log");
        let (log, guard) = FileLog::open(FileLogOptions { dir: dir.path().into(), file: Some(file.clone()), bytes_max: 0, version: "1" }).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            for n in 0..100 {
                tracing::warn!(target: "clawstead_gateway::doors::ws", conn = n, "closed");
            }
        });
        drop(guard);
        let text = std::fs::read_to_string(file).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 100);
        assert_eq!((lines[7]["message"].as_str(), lines[7]["_meta"]["logLevelName"].as_str()), (Some("closed conn=7"), Some("WARN")));
        assert_eq!(lines[0]["0"], "{\"subsystem\":\"gateway/doors/ws\"}");
    }

    #[test]
    fn a_full_file_is_turned() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.log");
        let (log, guard) = FileLog::open(FileLogOptions { dir: dir.path().into(), file: Some(file.clone()), bytes_max: 1_000, version: "1" }).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            for _ in 0..30 {
                tracing::info!("a line of some length");
            }
        });
        drop(guard);
        assert!(dir.path().join("x.log.1").exists() && dir.path().join("x.log.5").exists() && !dir.path().join("x.log.6").exists());
    }
}
