//! The interface against a whole gateway: keys go in, the screen is read, in between is a real WebSocket.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clawstead_config::{DevFlag, Env, Paths, Profile, ReadOptions, SecretOptions, Snapshot, Strictness};
use clawstead_gateway::{
    VERSION,
    building::{Building, Ground, SetUpWorkspaces},
    doors::{self, Phase},
    live::Live,
    rpc::system::Process,
};
use clawstead_state::MemoryStore;
use clawstead_tools::Places;
use clawstead_tui::{TuiError, TuiOptions, drive};
use clawstead_wire::device::DeviceIdentity;
use clawstead_world::World;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::{
    Terminal,
    backend::{Backend, ClearType, TestBackend, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A screen that tells what is on it.
struct Shown {
    screen: TestBackend,
    told: watch::Sender<String>,
}

impl Backend for Shown {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> io::Result<()> {
        self.screen.draw(content).map_err(io::Error::other)?;
        let buffer = self.screen.buffer();
        let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        self.told.send_replace((0..buffer.area.height).map(row).collect::<Vec<_>>().join("\n"));
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.screen.hide_cursor().map_err(io::Error::other)
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.screen.show_cursor().map_err(io::Error::other)
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        self.screen.get_cursor_position().map_err(io::Error::other)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.screen.set_cursor_position(position).map_err(io::Error::other)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.screen.clear().map_err(io::Error::other)
    }

    fn clear_region(&mut self, what: ClearType) -> io::Result<()> {
        self.screen.clear_region(what).map_err(io::Error::other)
    }

    fn size(&self) -> io::Result<Size> {
        self.screen.size().map_err(io::Error::other)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        self.screen.window_size().map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.screen.flush().map_err(io::Error::other)
    }
}

/// Somebody at the keyboard.
struct User {
    keys: mpsc::Sender<io::Result<Event>>,
    screen: watch::Receiver<String>,
}

impl User {
    async fn press(&self, code: KeyCode, modifiers: KeyModifiers) {
        self.keys.send(Ok(Event::Key(KeyEvent::new(code, modifiers)))).await.unwrap();
    }

    async fn write(&self, text: &str) {
        for c in text.chars() {
            self.press(KeyCode::Char(c), KeyModifiers::NONE).await;
        }
        self.press(KeyCode::Enter, KeyModifiers::NONE).await;
    }

    /// Waits until the words are on the screen, over the ends of lines.
    async fn sees(&mut self, text: &str) {
        let there = |screen: &String| screen.split_whitespace().collect::<Vec<_>>().join(" ").contains(text);
        let found = tokio::time::timeout(PATIENCE, self.screen.wait_for(there)).await.map(|seen| seen.is_ok());
        assert_eq!(found, Ok(true), "{text:?} is not on the screen:\n{}", *self.screen.borrow());
    }
}

/// A gateway in memory with the demo model, answering on `listener`.
async fn gateway(world: &World, listener: TcpListener) {
    let env = Env::from_pairs([("HOME", "/nonexistent")]);
    let paths = Paths::resolve(Profile::from_flags(None, DevFlag::Off).unwrap(), &env);
    let text = br#"{ gateway: { mode: "local", auth: { token: "secret-of-the-test" } }, agents: { list: [{ id: "jerry", default: true }, { id: "bobby" }] }, tools: { profile: "full" } }"#;
    let snapshot = Snapshot::from_bytes(text, &paths, &env, ReadOptions::default());
    let config = snapshot.load(Strictness::Strict, SecretOptions::default()).unwrap().config;
    let (live, reloads) = Live::new(snapshot, config.clone(), env, None, Strictness::Strict);
    let process = Process {
        version: VERSION.into(),
        instance: world.rng.uuid(),
        started: tokio::time::Instant::now(),
        port: listener.local_addr().unwrap().port(),
        storage: "memory".into(),
        log_dir: config.paths.log_dir.clone(),
        log_file: None,
        restart: CancellationToken::new(),
    };
    let ground = Ground {
        world: world.clone(),
        store: Arc::new(MemoryStore::new()),
        live,
        reloads,
        identity: DeviceIdentity::from_seed(&[7; 32]),
        name: "test".into(),
        process: Arc::new(process),
        brain: None,
        places: Places::default(),
        further_tools: Vec::new(),
        set_up_workspaces: SetUpWorkspaces::No,
        farm: None,
    };
    let building = Building::raise(ground).await.unwrap();
    building.doors.set_phase(Phase::Ready);
    tokio::spawn(doors::serve(listener, building.doors.clone()));
}

fn options(port: u16, token: &str) -> TuiOptions {
    let count = AtomicU64::new(1);
    let mut options =
        TuiOptions::new(format!("ws://127.0.0.1:{port}"), VERSION, Arc::new(move || format!("tui-test-{}", count.fetch_add(1, Ordering::Relaxed))));
    options.connect = options.connect.token(token).device(DeviceIdentity::from_seed(&[9; 32]));
    options
}

fn sit_down(options: TuiOptions) -> (User, tokio::task::JoinHandle<Result<(), TuiError>>) {
    let (keys, typed) = mpsc::channel(64);
    let (told, screen) = watch::channel(String::new());
    let mut terminal = Terminal::new(Shown { screen: TestBackend::new(80, 24), told }).unwrap();
    let running = tokio::spawn(async move { drive(options, &mut terminal, ReceiverStream::new(typed)).await });
    (User { keys, screen }, running)
}

#[tokio::test]
async fn a_conversation_from_the_keyboard_to_the_agent_and_back() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let world = World::real().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();

    // Nobody is there yet: the interface says so and tries again.
    drop(listener);
    let (mut user, running) = sit_down(options(port, "secret-of-the-test"));
    user.sees("disconnected, again in").await;
    user.write("written before anybody listened").await;
    user.sees("not connected yet").await;
    gateway(&world, TcpListener::bind(("127.0.0.1", port)).await.unwrap()).await;
    user.sees("● connected").await;
    user.sees("jerry · main").await;
    user.press(KeyCode::Enter, KeyModifiers::NONE).await;
    user.sees("you said: written before anybody listened").await;

    // A tool, folded and unfolded.
    user.write("use tool agents_list").await;
    user.sees("● agents_list").await;
    user.sees("the tool agents_list answered").await;
    user.press(KeyCode::Char('o'), KeyModifiers::CONTROL).await;
    user.sees("│ {").await;

    // Another agent, and back through the list of sessions.
    user.write("/agents").await;
    user.sees("✓ jerry").await;
    user.press(KeyCode::Down, KeyModifiers::NONE).await;
    user.press(KeyCode::Enter, KeyModifiers::NONE).await;
    user.sees("bobby · main").await;
    user.write("good day").await;
    user.sees("you said: good day").await;
    user.press(KeyCode::Char('p'), KeyModifiers::CONTROL).await;
    user.sees("Sessions").await;
    user.sees("agent:jerry:main").await;
    for c in "jerry".chars() {
        user.press(KeyCode::Char(c), KeyModifiers::NONE).await;
    }
    user.sees("Search: jerry").await;
    user.press(KeyCode::Enter, KeyModifiers::NONE).await;
    user.sees("the tool agents_list answered").await;

    // A command of the gateway.
    user.write("/new").await;
    user.sees("demo/echo › /new A new conversation has begun.").await;

    user.press(KeyCode::Char('c'), KeyModifiers::CONTROL).await;
    user.press(KeyCode::Char('c'), KeyModifiers::CONTROL).await;
    assert!(tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn a_wrong_token_ends_the_program_with_the_reason() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let world = World::real().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    gateway(&world, listener).await;
    let (_user, running) = sit_down(options(port, "not the secret"));
    let ended = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    assert!(matches!(ended, Err(TuiError::Connect(_))), "{ended:?}");
    assert!(ended.unwrap_err().to_string().contains("token"));
}
