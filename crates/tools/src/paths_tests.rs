use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use proptest::prelude::*;

use super::{Confine, Paths, open_beneath, walk_beneath};
use crate::{Places, ToolError};

struct Yard {
    _temp: tempfile::TempDir,
    root: PathBuf,
}

fn yard() -> Yard {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    for dir in ["state/credentials", "state/workspace/sub", "state/media", "out"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("state/openclaw.json"), "secret").unwrap();
    fs::write(root.join("state/credentials/k"), "secret").unwrap();
    fs::write(root.join("state/media/m.txt"), "media").unwrap();
    fs::write(root.join("out/o.txt"), "secret").unwrap();
    fs::write(root.join("state/workspace/a.txt"), "inside").unwrap();
    fs::write(root.join("state/workspace/sub/b.txt"), "inside").unwrap();
    symlink("../../out", root.join("state/workspace/up")).unwrap();
    symlink(root.join("out"), root.join("state/workspace/abs")).unwrap();
    symlink("sub", root.join("state/workspace/within")).unwrap();
    symlink("../openclaw.json", root.join("state/workspace/cfg")).unwrap();
    symlink(root.join("out/o.txt"), root.join("state/workspace/o-link")).unwrap();
    Yard { _temp: temp, root }
}

fn paths(yard: &Yard, confine: Confine) -> Paths {
    let places = Places { state_dir: yard.root.join("state"), home: yard.root.clone(), env: std::collections::BTreeMap::new() };
    Paths::new(yard.root.join("state/workspace"), Arc::new(places), confine)
}

fn read(paths: &Paths, text: &str) -> Result<String, ToolError> {
    let mut out = String::new();
    paths.open(text)?.file.read_to_string(&mut out).unwrap();
    Ok(out)
}

#[test]
fn a_confined_agent_reads_and_writes_inside_only() {
    let yard = yard();
    let inside = paths(&yard, Confine::Workspace);
    assert_eq!(read(&inside, "a.txt").unwrap(), "inside");
    assert_eq!(read(&inside, "within/b.txt").unwrap(), "inside");
    assert_eq!(read(&inside, yard.root.join("state/workspace/sub/../a.txt").to_str().unwrap()).unwrap(), "inside");
    for bad in
        ["../openclaw.json", "up/o.txt", "abs/o.txt", "cfg", "o-link", "~/out/o.txt", "/etc/passwd", "sub/../../../out/o.txt", "/proc/self/root/etc/passwd"]
    {
        assert!(matches!(read(&inside, bad), Err(ToolError::Denied(_))), "{bad}");
        assert!(matches!(inside.write(bad, b"x", "t"), Err(ToolError::Denied(_))), "{bad}");
    }
    assert_eq!(fs::read_to_string(yard.root.join("out/o.txt")).unwrap(), "secret");
    let (path, new) = inside.write("new/deep/c.txt", b"hello", "t").unwrap();
    assert!(new && fs::read_to_string(path).unwrap() == "hello");
    assert!(inside.write("up/new/c.txt", b"x", "t").is_err() && !yard.root.join("out/new").exists());
}

#[test]
fn an_unconfined_agent_reads_the_host_but_not_the_gateways_keys() {
    let yard = yard();
    let host = paths(&yard, Confine::Host);
    assert_eq!(read(&host, "~/out/o.txt").unwrap(), "secret");
    assert_eq!(read(&host, "../media/m.txt").unwrap(), "media");
    for bad in ["cfg", "../openclaw.json", "../credentials/k", "~/state/.env-new", "../x", "../agents/main/agent/auth-profiles.json"] {
        let write = host.write(bad, b"x", "t");
        assert!(matches!(write, Err(ToolError::Denied(_))), "{bad}: {write:?}");
    }
    assert!(matches!(read(&host, "cfg"), Err(ToolError::Denied(_))));
    assert!(!yard.root.join("state/agents").exists());
}

#[test]
fn pipes_and_devices_do_not_hang() {
    let yard = yard();
    rustix::fs::mkfifoat(rustix::fs::CWD, yard.root.join("state/workspace/pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let host = paths(&yard, Confine::Host);
    assert!(read(&host, "pipe").unwrap_err().to_string().contains("not a regular file"));
    assert!(read(&host, "/dev/zero").unwrap_err().to_string().contains("not a regular file"));
    assert!(read(&host, "sub").unwrap_err().to_string().contains("folder"));
}

#[test]
fn a_write_keeps_the_mode_and_leaves_no_scrap() {
    use std::os::unix::fs::PermissionsExt;
    let yard = yard();
    let file = yard.root.join("state/workspace/run.sh");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o750)).unwrap();
    paths(&yard, Confine::Host).write("run.sh", b"new", "t").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o750);
    assert!(fs::read_dir(yard.root.join("state/workspace")).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
}

#[test]
fn a_folder_swapped_for_a_link_leads_nowhere() {
    let yard = yard();
    let stop = Arc::new(AtomicBool::new(false));
    let base = yard.root.join("state/workspace");
    let (swap, stopping) = (base.clone(), stop.clone());
    fs::create_dir(base.join("real")).unwrap();
    fs::write(base.join("real/o.txt"), "inside").unwrap();
    let thread = std::thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            let _ = fs::rename(swap.join("real"), swap.join("door"));
            let _ = fs::rename(swap.join("door"), swap.join("real"));
            let _ = symlink("../../out", swap.join("door"));
            let _ = fs::remove_file(swap.join("door"));
        }
    });
    let inside = paths(&yard, Confine::Workspace);
    for _ in 0..3000 {
        if let Ok(text) = read(&inside, "door/o.txt") {
            assert_eq!(text, "inside");
        }
        let _ = inside.write("door/w.txt", b"x", "t");
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert_eq!(fs::read_dir(yard.root.join("out")).unwrap().count(), 1, "something was written outside");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_spelling_reaches_a_secret(parts in prop::collection::vec(prop::sample::select(vec![
        "..", ".", "sub", "up", "abs", "within", "cfg", "o-link", "o.txt", "a.txt", "b.txt", "out", "state", "openclaw.json", "~", "", "credentials", "k", "%2e%2e",
    ]), 1..7), slash in any::<bool>()) {
        let yard = yard();
        let text = format!("{}{}", if slash { yard.root.join("state/workspace").display().to_string() + "/" } else { String::new() }, parts.join("/"));
        if let Ok(found) = read(&paths(&yard, Confine::Workspace), &text) {
            prop_assert_eq!(found, "inside");
        }
    }
}

#[test]
fn the_walk_without_the_kernels_help_is_as_strict() {
    let yard = yard();
    let root = rustix::fs::openat(rustix::fs::CWD, yard.root.join("state/workspace"), rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let flags = rustix::fs::OFlags::RDONLY;
    for (rest, ok) in [("a.txt", true), ("sub/b.txt", true), ("up/o.txt", false), ("abs/o.txt", false), ("o-link", false), ("../openclaw.json", false)] {
        assert_eq!(walk_beneath(&root, rest.as_ref(), flags).is_ok(), ok, "{rest}");
        assert_eq!(open_beneath(&root, rest.as_ref(), flags).is_ok(), ok, "{rest}");
    }
}
