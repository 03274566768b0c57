use std::{fs, io::Write as _, process::Command};

use super::*;

struct Place {
    folder: tempfile::TempDir,
    vault: Vault,
    bobby: AgentId,
    jerry: AgentId,
}

async fn place(commits: Commits) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::open(folder.path().join("vault"), commits, World::simulated(1)).await.unwrap();
    Place { folder, vault, bobby: AgentId::parse("bobby").unwrap(), jerry: AgentId::parse("jerry").unwrap() }
}

impl Place {
    fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("vault").join(path)
    }
}

#[test]
fn names_that_lead_out_are_no_notes() {
    for bad in [
        "",
        "/etc/passwd.md",
        "../x.md",
        "agents/../../x.md",
        "agents/bobby/../jerry/MEMORY.md",
        "agents/bobby/.git/config.md",
        "agents/bobby/MEMORY.txt",
        "agents/bobby/.md",
        "agents/Bobby/MEMORY.md",
        "agents/MEMORY.md",
        "shared/a/b.md",
        "other/x.md",
        "shared/a\\..\\b.md",
        "shared/a\0.md",
        "shared/a\n.md",
        "agents/bobby//x.md",
        "agents/bobby/-rf.md",
        "agents/bobby/a/b/c/d/e.md",
        "shared/C:x.md",
    ] {
        assert!(NotePath::parse(bad).is_err(), "{bad:?}");
    }
    for good in ["agents/bobby/MEMORY.md", "agents/bobby/2026/Kürbis Suppe.md", "shared/RECENT_EVENTS.md"] {
        assert_eq!(NotePath::parse(good).unwrap().to_string(), good);
    }
}

#[tokio::test]
async fn each_folder_has_one_writer_and_logs_only_grow() {
    let p = place(Commits::Off).await;
    let (mine, theirs, log) =
        (NotePath::of(&p.bobby, "ALERTS.md").unwrap(), NotePath::of(&p.jerry, "MEMORY.md").unwrap(), NotePath::shared("DECISIONS.md").unwrap());
    assert_eq!(p.vault.read(&mine).await.unwrap(), None);
    p.vault.write(&p.bobby, &mine, "hello\n", None).await.unwrap();
    for path in [&theirs, &log] {
        let err = p.vault.write(&p.bobby, path, "x", None).await.unwrap_err();
        assert!(matches!(err, VaultError::NotYours { .. }), "{err}");
    }
    assert!(matches!(p.vault.append(&p.bobby, &mine, "x").await, Err(VaultError::NotYours { .. })));
    assert!(matches!(p.vault.append(&p.bobby, &log, "  ").await, Err(VaultError::Entry(_))));
    assert!(matches!(p.vault.append(&p.bobby, &log, &"x".repeat(LINE_BYTES_MAX + 1)).await, Err(VaultError::Entry(_))));
    assert_eq!(p.vault.read(&mine).await.unwrap().unwrap().text, "hello\n");
}

#[tokio::test]
async fn an_edit_by_a_person_is_kept_beside_and_told() {
    let p = place(Commits::Off).await;
    let path = NotePath::of(&p.bobby, "MEMORY.md").unwrap();
    let first = p.vault.write(&p.bobby, &path, "one", None).await.unwrap();
    let second = p.vault.write(&p.bobby, &path, "two", Some(first.revision.clone())).await.unwrap();
    assert_eq!(second.conflict, None);
    fs::write(p.file("agents/bobby/MEMORY.md"), "edited by hand").unwrap();
    let third = p.vault.write(&p.bobby, &path, "three", Some(second.revision)).await.unwrap();
    let kept = third.conflict.unwrap();
    assert_eq!(p.vault.read(&kept).await.unwrap().unwrap().text, "edited by hand");
    assert_eq!(p.vault.read(&path).await.unwrap().unwrap().text, "three");
    let same = p.vault.write(&p.bobby, &path, "three", None).await.unwrap();
    assert_eq!(same.conflict, None, "the same text is no conflict");
    let unaware = p.vault.write(&p.bobby, &path, "four", None).await.unwrap();
    assert_eq!(p.vault.read(&unaware.conflict.unwrap()).await.unwrap().unwrap().text, "three");
    let index = p.vault.index().await.unwrap();
    assert_eq!(index.iter().filter(|n| n.conflict).count(), 2);
    assert_eq!(index.iter().filter(|n| !n.conflict).map(|n| n.path.to_string()).collect::<Vec<_>>(), ["agents/bobby/MEMORY.md"]);
    let left: Vec<_> = fs::read_dir(p.file("agents/bobby")).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn sections_have_the_published_form_and_keep_what_people_wrote() {
    let p = place(Commits::Off).await;
    let path = NotePath::of(&p.jerry, "MEMORY.md").unwrap();
    let section = Section { task: "Deploy\nTraefik".into(), status: Status::Blocked, context: "waits for DNS".into(), dependencies: "bobby".into() };
    p.vault.note(&p.jerry, &path, &section).await.unwrap();
    let file = p.file("agents/jerry/MEMORY.md");
    let by_hand = fs::read_to_string(&file).unwrap() + "\nA person was here";
    fs::write(&file, &by_hand).unwrap();
    let written = p.vault.note(&p.jerry, &path, &Section { status: Status::Completed, dependencies: String::new(), ..section }).await.unwrap();
    assert_eq!(written.conflict, None);
    let note = p.vault.read(&path).await.unwrap().unwrap();
    assert!(note.text.starts_with(&by_hand), "{}", note.text);
    assert!(note.text.contains("**Task:** Deploy Traefik\n**Status:** blocked\n**Context:** waits for DNS\n**Dependencies:** bobby\n"), "{}", note.text);
    assert!(note.text.ends_with("**Status:** completed\n**Context:** waits for DNS\n"), "{}", note.text);
    assert_eq!(note.front.0.get("agent").map(String::as_str), Some("jerry"));
    assert_eq!(note.front.0.get("name").map(String::as_str), Some("MEMORY"));
}

#[tokio::test]
async fn many_writers_add_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let log = NotePath::shared("RECENT_EVENTS.md").unwrap();
    let mut tasks = Vec::new();
    for who in 0..8 {
        // A vault of its own each, as several gateways have.
        let mut world = World::simulated(who);
        world.tasks = clawstead_world::Tasks::new();
        let vault = Vault::open(folder.path(), Commits::Off, world).await.unwrap();
        let (log, agent) = (log.clone(), AgentId::parse(&format!("agent-{who}")).unwrap());
        tasks.push(tokio::spawn(async move {
            for n in 0..25 {
                vault.append(&agent, &log, &format!("entry {n}\nof {agent} {}", "x".repeat(500))).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let text = fs::read_to_string(folder.path().join("shared/RECENT_EVENTS.md")).unwrap();
    let (front, body) = FrontMatter::split(&text);
    assert_eq!(front.0.get("name").map(String::as_str), Some("RECENT_EVENTS"));
    let lines: Vec<LogLine> = body.lines().filter_map(LogLine::parse).collect();
    assert_eq!(lines.len(), 200);
    assert_eq!(text.matches("# RECENT_EVENTS").count(), 1, "one head");
    for who in 0..8 {
        let name = format!("agent-{who}");
        let mine: Vec<_> = lines.iter().filter(|l| l.agent.as_str() == name).map(|l| l.text.split(' ').nth(1).unwrap().parse::<u32>().unwrap()).collect();
        assert_eq!(mine, (0..25).collect::<Vec<_>>(), "{name} in its order");
    }
}

#[tokio::test]
async fn an_editor_that_leaves_no_line_break_glues_nothing() {
    let p = place(Commits::Off).await;
    let log = NotePath::shared("CURRENT_FOCUS.md").unwrap();
    fs::write(p.file("shared/CURRENT_FOCUS.md"), "# by hand, no line break").unwrap();
    p.vault.append(&p.bobby, &log, "next").await.unwrap();
    let text = fs::read_to_string(p.file("shared/CURRENT_FOCUS.md")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "# by hand, no line break"));
    assert_eq!(LogLine::parse(lines[1]).unwrap().text, "next");
}

/// Editors save by putting a new file in the place of the old one. Lines that were there when the editor read stay, lines
/// added later must stay too.
#[tokio::test]
async fn lines_reach_the_file_that_an_editor_put_in_place() {
    let mut p = place(Commits::Off).await;
    p.vault.world.tasks = clawstead_world::Tasks::new();
    let log = NotePath::shared("LOG.md").unwrap();
    let (path, temp) = (p.file("shared/LOG.md"), p.file("shared/saved.tmp"));
    p.vault.append(&p.bobby, &log, "first").await.unwrap();
    let held = fs::File::open(&path).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (vault, bobby, asked) = (p.vault.clone(), p.bobby.clone(), log.clone());
    let waiting = tokio::spawn(async move { vault.append(&bobby, &asked, "second").await });
    // The appender has the old file open when a second handle of it waits for the lock.
    let name = path.clone();
    let ours = std::process::id();
    for _ in 0..2_000 {
        let open = fs::read_dir(format!("/proc/{ours}/fd")).unwrap().flatten().filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == name)).count();
        if open >= 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let edited = fs::read_to_string(&path).unwrap().replace("first", "first, edited");
    fs::write(&temp, edited).unwrap();
    fs::rename(&temp, &path).unwrap();
    drop(held);
    waiting.await.unwrap().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("first, edited") && text.matches("second").count() == 1, "{text}");
}

#[tokio::test]
async fn links_lead_nowhere() {
    let p = place(Commits::Off).await;
    let secret = p.folder.path().join("secret.md");
    fs::write(&secret, "the secret").unwrap();
    fs::create_dir_all(p.file("agents/bobby")).unwrap();
    std::os::unix::fs::symlink(&secret, p.file("agents/bobby/LINK.md")).unwrap();
    std::os::unix::fs::symlink(&secret, p.file("shared/LINK.md")).unwrap();
    std::os::unix::fs::symlink(p.folder.path(), p.file("agents/jerry")).unwrap();
    let (file, log, folder) = (NotePath::of(&p.bobby, "LINK.md").unwrap(), NotePath::shared("LINK.md").unwrap(), NotePath::of(&p.jerry, "secret.md").unwrap());
    for path in [&file, &log, &folder] {
        let err = p.vault.read(path).await.unwrap_err();
        assert!(matches!(err, VaultError::Link(_)), "{path}: {err}");
    }
    assert!(matches!(p.vault.append(&p.bobby, &log, "x").await, Err(VaultError::Link(_))));
    assert!(matches!(p.vault.write(&p.jerry, &folder, "x", None).await, Err(VaultError::Link(_))));
    assert!(p.vault.write(&p.bobby, &file, "x", None).await.is_err());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the secret");
    assert!(p.vault.index().await.unwrap().is_empty());
    assert!(p.vault.search("secret", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn search_finds_words_in_any_case() {
    let p = place(Commits::Off).await;
    p.vault.write(&p.bobby, &NotePath::of(&p.bobby, "INFRASTRUCTURE.md").unwrap(), "# Nomad\nthree Allocations failed\n", None).await.unwrap();
    p.vault.append(&p.jerry, &NotePath::shared("DECISIONS.md").unwrap(), "failed allocations are Bobby's").await.unwrap();
    let hits = p.vault.search("FAILED alloc", 10).await.unwrap();
    assert_eq!(hits.iter().map(|h| h.path.to_string()).collect::<Vec<_>>(), ["agents/bobby/INFRASTRUCTURE.md", "shared/DECISIONS.md"]);
    assert_eq!(hits[0].line, 2);
    assert_eq!(p.vault.search("failed", 1).await.unwrap().len(), 1);
    assert!(p.vault.search(" ", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn notes_are_committed_one_by_one() {
    if Command::new("git").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: hub vault: there is no git");
        // `cargo xtask test` counts the lines of this file.
        if let Some(path) = std::env::var_os("CLAWSTEAD_SKIPS") {
            let file = fs::File::options().create(true).append(true).open(path);
            let _ = file.and_then(|mut file| writeln!(file, "hub\tgit\tnot installed"));
        }
        return;
    }
    let p = place(Commits::On { program: "git".into() }).await;
    let path = NotePath::of(&p.bobby, "MEMORY.md").unwrap();
    fs::write(p.file("shared/UNRELATED.md"), "not ours to commit").unwrap();
    let first = p.vault.write(&p.bobby, &path, "one", None).await.unwrap();
    assert_eq!(first.committed, Committed::Done);
    let same = p.vault.write(&p.bobby, &path, "one", Some(first.revision.clone())).await.unwrap();
    assert_eq!(same.committed, Committed::Done);
    assert_eq!(p.vault.append(&p.jerry, &NotePath::shared("LOG.md").unwrap(), "-m; $(touch x) entry").await.unwrap(), Committed::Done);
    let git = |words: &[&str]| String::from_utf8(Command::new("git").current_dir(p.file("")).args(words).output().unwrap().stdout).unwrap();
    assert_eq!(git(&["log", "--format=%an: %s"]), "jerry: jerry: append to shared/LOG.md\nbobby: bobby: write agents/bobby/MEMORY.md\n");
    assert_eq!(git(&["status", "--porcelain"]), "?? shared/UNRELATED.md\n");
    let none = Vault::open(p.file(""), Commits::On { program: "no-such-git".into() }, World::simulated(1)).await.unwrap();
    let written = none.write(&p.bobby, &path, "two", Some(first.revision)).await.unwrap();
    assert!(matches!(&written.committed, Committed::Failed(why) if why.contains("no-such-git")), "{written:?}");
    assert_eq!(none.read(&path).await.unwrap().unwrap().text, "two");
}
