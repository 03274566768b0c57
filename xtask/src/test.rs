//! `cargo xtask test [--quick] [filter]`: everything, with the real programs it runs against.
//!
//! Builds the workspace once, runs each test program under a time limit with its output kept in a file, then the web
//! checks, and ends with a table and the line `N passed, N failed, N skipped`.
//!
//! `--quick` leaves out the end-to-end suites, the doc tests and the web checks. A filter runs only tests whose name
//! contains it, or all tests of the programs whose name contains it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    engines::{Fetch, Found, prepare},
    floors,
    run::{End, logged, not_of_this_package, tail, which},
};

/// The package of the end-to-end suites.
const HARNESS: &str = "clawstead-harness";
/// Longest run of one test program.
const PROGRAM_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Longest build.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// One line of the table.
struct Suite {
    name: String,
    passed: usize,
    failed: usize,
    skipped: usize,
    took: Duration,
}

struct Run<'a> {
    repo: &'a Path,
    target: PathBuf,
    logs: PathBuf,
    skips: PathBuf,
    variables: BTreeMap<String, PathBuf>,
    suites: Vec<Suite>,
    /// Tests that are not run on their own, with the reason their code gives.
    ignored: Vec<String>,
    skips_seen: usize,
}

/// What was asked for.
#[derive(Default)]
struct Wanted {
    quick: bool,
    filter: Option<String>,
}

/// Runs the tests. Answers true when nothing failed.
///
/// # Errors
/// When the run itself cannot be done: no cargo, no folder for the logs.
pub fn command(repo: &Path, args: &[String]) -> anyhow::Result<bool> {
    let mut wanted = Wanted::default();
    for arg in args {
        match arg.as_str() {
            "--quick" => wanted.quick = true,
            flag if flag.starts_with('-') => bail!("unknown flag {flag}; usage: cargo xtask test [--quick] [filter]"),
            filter => wanted.filter = Some(filter.to_owned()),
        }
    }
    let began = Instant::now();
    let found = if wanted.quick { prepare(repo, Fetch::No)? } else { prepare(repo, Fetch::Missing)? };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir));
    let logs = target.join("test-logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;
    let skips = logs.join("skips.tsv");
    fs::write(&skips, "")?;
    let Found { variables, missing } = found;
    let mut run = Run { repo, target, logs, skips, variables, suites: Vec::new(), ignored: Vec::new(), skips_seen: 0 };
    let programs = run.build()?;
    if wanted.filter.is_none() {
        run.repository();
    }
    for program in &programs {
        if !(wanted.quick && program.package == HARNESS) {
            run.program(program, wanted.filter.as_deref())?;
        }
    }
    if wanted.filter.is_none() && !wanted.quick {
        run.doc_tests()?;
        run.web()?;
    }
    Ok(run.report(&missing, began.elapsed()))
}

/// A built test program.
struct Program {
    package: String,
    name: String,
    folder: PathBuf,
    path: PathBuf,
}

impl Run<'_> {
    /// Builds every library, program, test and example once and lists the test programs.
    fn build(&mut self) -> anyhow::Result<Vec<Program>> {
        let began = Instant::now();
        println!("building ...");
        let out = self.logs.join("build.jsonl");
        let mut command = Command::new("bash");
        let errors = self.logs.join("build.log");
        // Messages for us on standard output, messages for people in the log.
        command.args(["-c", "exec cargo build --workspace --all-targets --message-format=json-render-diagnostics 2>\"$1\"", "build"]).arg(&errors);
        let end = logged(not_of_this_package(command.current_dir(self.repo)), &out, BUILD_LIMIT)?;
        if end != End::Good {
            println!("{}", tail(&fs::read_to_string(&errors).unwrap_or_default(), 60));
        }
        self.add("build", usize::from(end == End::Good), usize::from(end != End::Good), began.elapsed());
        if end != End::Good {
            return Ok(Vec::new());
        }
        // A copy of its own: a build beside this run would put another program in the place of the one under test.
        let kept = self.under_test();
        if let Some(folder) = kept.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(self.target.join("debug/openclaw"), &kept).context("the program under test")?;
        let mut programs: Vec<Program> = fs::read_to_string(&out)?.lines().filter_map(test_program).collect();
        // Fast ones first, the end-to-end suites last, always in the same order.
        programs.sort_by_key(|program| (program.package == HARNESS, program.package.clone(), program.name.clone()));
        programs.dedup_by(|a, b| a.path == b.path);
        Ok(programs)
    }

    /// The program that the suites start.
    fn under_test(&self) -> PathBuf {
        self.target.join("under-test/openclaw")
    }

    /// Checks of the repository itself: floors and formatting.
    fn repository(&mut self) {
        // Not as a program of its own: the build before may have replaced our file.
        let began = Instant::now();
        let good = floors::command(self.repo).unwrap_or_else(|err| {
            println!("{err:#}");
            false
        });
        self.add("floors", usize::from(good), usize::from(!good), began.elapsed());
        self.check("format", Command::new("cargo").args(["fmt", "--all", "--check"]));
    }

    fn check(&mut self, name: &str, command: &mut Command) {
        let began = Instant::now();
        let log = self.logs.join(format!("{}.log", name.replace([' ', ':'], "-")));
        let end = logged(command.current_dir(self.repo), &log, PROGRAM_LIMIT).unwrap_or(End::Bad);
        if end != End::Good {
            println!("{}", tail(&fs::read_to_string(&log).unwrap_or_default(), 40));
        }
        self.add(name, usize::from(end == End::Good), usize::from(end != End::Good), began.elapsed());
    }

    fn program(&mut self, program: &Program, filter: Option<&str>) -> anyhow::Result<()> {
        let name = format!("{}: {}", program.package.trim_start_matches("clawstead-"), program.name);
        let began = Instant::now();
        let log = self.logs.join(format!("{}-{}.log", program.package, program.name));
        let mut command = Command::new(&program.path);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder).env("CLAWSTEAD_SKIPS", &self.skips);
        // Everything is built: no test has a reason to start cargo again.
        command.env_remove("CARGO");
        command.env("CLAWSTEAD_BIN", self.under_test()).envs(&self.variables);
        if program.package == HARNESS {
            // Each of these starts whole gateways and foreign programs; two at a time is what two cores bear.
            command.arg("--test-threads=2");
        }
        if let Some(filter) = filter.filter(|filter| !name.contains(filter)) {
            command.arg(filter);
        }
        let end = logged(&mut command, &log, PROGRAM_LIMIT)?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let (mut passed, mut failed, ignored) = counts(&text);
        self.ignored.extend(ignored_tests(&text).map(|(test, why)| format!("{name}: {test}: {why}")));
        if end == End::TooLong {
            println!("{name}: still running after {} minutes, ended", PROGRAM_LIMIT.as_secs() / 60);
        }
        if end != End::Good {
            failed = failed.max(1);
            println!("---- {name} failed ----\n{}", failure_part(&text));
        }
        let skipped = self.new_skips();
        passed = passed.saturating_sub(skipped);
        if passed + failed + skipped + ignored > 0 {
            self.suites.push(Suite { name: name.clone(), passed, failed, skipped: skipped + ignored, took: began.elapsed() });
            self.say(closing_line(&text));
        }
        Ok(())
    }

    fn doc_tests(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let log = self.logs.join("doc.log");
        let mut command = Command::new("cargo");
        command.args(["test", "--workspace", "--doc"]).current_dir(self.repo);
        let end = logged(not_of_this_package(&mut command), &log, BUILD_LIMIT)?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let (passed, failed, skipped) = counts(&text);
        self.ignored.extend(ignored_tests(&text).map(|(test, why)| format!("doc tests: {test}: {why}")));
        let failed = if end == End::Good { failed } else { failed.max(1) };
        if failed > 0 {
            println!("{}", failure_part(&text));
        }
        self.suites.push(Suite { name: "doc tests".into(), passed, failed, skipped, took: began.elapsed() });
        self.say(closing_line(&text));
        Ok(())
    }

    /// The dashboard: types, unit tests, freshness of the built page, and the page in a headless browser.
    fn web(&mut self) -> anyhow::Result<()> {
        let folder = self.repo.join("web");
        if !folder.join("package.json").exists() {
            return Ok(());
        }
        let steps = ["check", "test", "check-fresh", "e2e-gateway", "e2e-farm"];
        let Some(npm) = which("npm") else {
            return self.skip_web(&steps, "npm", "not installed");
        };
        let path = self.node_first();
        let install = logged(
            Command::new(&npm).args(["ci", "--no-audit", "--no-fund", "--prefer-offline"]).current_dir(&folder).env("PATH", &path),
            &self.logs.join("web-install.log"),
            PROGRAM_LIMIT,
        )?;
        if install != End::Good {
            return self.skip_web(&steps, "npm packages", "npm ci failed");
        }
        for step in steps {
            if step.starts_with("e2e-") && !self.variables.contains_key("CLAWSTEAD_CHROMIUM") {
                self.skip_web(&[step], "chromium", "not installed")?;
                continue;
            }
            let mut command = Command::new(&npm);
            command.args(["run", "--silent", step]).env("PATH", &path).env("CI", "true").env("NO_COLOR", "1").env_remove("FORCE_COLOR").envs(&self.variables);
            command.env("CLAWSTEAD_BIN", self.under_test());
            let began = Instant::now();
            let log = self.logs.join(format!("web-{step}.log"));
            let end = logged(command.current_dir(&folder), &log, PROGRAM_LIMIT)?;
            let text = fs::read_to_string(&log).unwrap_or_default();
            if end != End::Good {
                println!("---- web {step} failed ----\n{}", tail(&text, 60));
            }
            let passed = web_passed(&text).unwrap_or(1);
            let (passed, failed) = if end == End::Good { (passed, 0) } else { (0, 1) };
            self.suites.push(Suite { name: format!("web: {step}"), passed, failed, skipped: 0, took: began.elapsed() });
            self.say(closing_line(&text));
        }
        Ok(())
    }

    fn skip_web(&mut self, steps: &[&str], engine: &str, why: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::options().append(true).open(&self.skips)?;
        for step in steps {
            println!("SKIPPED: web {step}: {engine}: {why}");
            writeln!(file, "web {step}\t{engine}\t{why}")?;
        }
        let skipped = self.new_skips();
        self.suites.push(Suite { name: "web".into(), passed: 0, failed: 0, skipped, took: Duration::ZERO });
        Ok(())
    }

    /// The search path with the Node we fetched in front.
    fn node_first(&self) -> std::ffi::OsString {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let Some(folder) = self.variables.get("CLAWSTEAD_NODE").and_then(|node| node.parent()) else { return old };
        let mut path = folder.as_os_str().to_owned();
        path.push(OsStr::new(":"));
        path.push(old);
        path
    }

    fn new_skips(&mut self) -> usize {
        let all = fs::read_to_string(&self.skips).unwrap_or_default().lines().count();
        let new = all.saturating_sub(self.skips_seen);
        self.skips_seen = all;
        new
    }

    fn add(&mut self, name: &str, passed: usize, failed: usize, took: Duration) {
        self.suites.push(Suite { name: name.into(), passed, failed, skipped: 0, took });
        self.say(None);
    }

    /// Says how the last suite ended, with what its own runner said last.
    fn say(&self, closing: Option<&str>) {
        if let Some(suite) = self.suites.last() {
            let word = if suite.failed > 0 { "FAILED" } else { "ok" };
            println!("{:<50} {word} ({} passed, {:.1} s)", suite.name, suite.passed, suite.took.as_secs_f64());
            if let Some(line) = closing {
                println!("    {line}");
            }
        }
    }

    fn report(&self, missing: &[(String, String)], took: Duration) -> bool {
        println!("\n{:<50} {:>7} {:>7} {:>8} {:>8}", "suite", "passed", "failed", "skipped", "seconds");
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for suite in &self.suites {
            println!("{:<50} {:>7} {:>7} {:>8} {:>8.1}", suite.name, suite.passed, suite.failed, suite.skipped, suite.took.as_secs_f64());
            passed += suite.passed;
            failed += suite.failed;
            skipped += suite.skipped;
        }
        for (engine, why) in missing {
            println!("SKIPPED: {engine}: {why}");
        }
        for line in fs::read_to_string(&self.skips).unwrap_or_default().lines() {
            println!("SKIPPED: {}", line.replace('\t', ": "));
        }
        for line in &self.ignored {
            println!("SKIPPED: {line}");
        }
        println!("{} minutes {} seconds; logs in {}", took.as_secs() / 60, took.as_secs() % 60, self.logs.display());
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }
}

/// The test program in one message of cargo, if it is one.
fn test_program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    let text = fs::read_to_string(&manifest).ok()?;
    let package = text.lines().find_map(|line| line.strip_prefix("name = ")).map(|name| name.trim_matches('"').to_owned())?;
    let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
    let name = message["target"]["name"].as_str()?;
    let name = if kind == "lib" { "unit tests".to_owned() } else { format!("{kind} {name}") };
    Some(Program { package, name: name.replace("test ", ""), folder, path: message["executable"].as_str()?.into() })
}

/// Passed, failed and ignored tests in the output of test programs.
fn counts(text: &str) -> (usize, usize, usize) {
    let mut sum = (0, 0, 0);
    for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let number = |word: &str| {
            let end = line.find(word)?;
            line[..end].trim_end().rsplit([' ', ';', '.']).next()?.parse::<usize>().ok()
        };
        sum.0 += number("passed").unwrap_or(0);
        sum.1 += number("failed").unwrap_or(0);
        sum.2 += number("ignored").unwrap_or(0);
    }
    sum
}

/// What a runner said last about its tests, in its own words: libtest, vitest or our scripts.
fn closing_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| line.starts_with("test result: ") || is_web_sum(line))
}

/// The ignored tests in the output of a test program, with the reason.
fn ignored_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (test, why) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
        Some((test, if why.is_empty() { "ignored" } else { why.trim_start_matches([',', ' ']) }))
    })
}

/// The part of a test program's output that tells what failed.
fn failure_part(text: &str) -> String {
    let from = text.find("\nfailures:\n").unwrap_or(0);
    tail(&text[from..], 120)
}

/// Passed checks in the output of vitest (`Tests  17 passed (17)`) or of our own scripts (`18 passed, 0 failed`).
fn web_passed(text: &str) -> Option<usize> {
    let line = text.lines().rev().map(str::trim).find(|line| is_web_sum(line))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("passed"))?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

fn is_web_sum(line: &str) -> bool {
    line.starts_with("Tests ") || (line.contains(" passed, ") && line.ends_with(" failed"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_are_summed() {
        let text = "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured\nx\ntest result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured\n";
        assert_eq!(super::counts(text), (9, 3, 1));
        assert_eq!(super::web_passed("ok    a\n18 passed, 0 failed\n"), Some(18));
        assert_eq!(super::web_passed(" Test Files  2 passed (2)\n      Tests  17 passed (17)\n"), Some(17));
    }

    #[test]
    fn runners_have_the_last_word() {
        let text = "test a::b ... ignored, slow\ntest c ... ignored\ntest d ... ok\n\ntest result: ok. 1 passed; 0 failed; 2 ignored\n\n";
        assert_eq!(super::closing_line(text), Some("test result: ok. 1 passed; 0 failed; 2 ignored"));
        assert_eq!(super::ignored_tests(text).collect::<Vec<_>>(), [("a::b", "slow"), ("c", "ignored")]);
        assert_eq!(super::closing_line("      Tests  17 passed (17)\n   Duration  2 s\n"), Some("Tests  17 passed (17)"));
        assert_eq!(super::closing_line("fresh\n"), None);
    }
}
