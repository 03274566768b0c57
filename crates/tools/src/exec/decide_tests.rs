use serde_json::{Value, json};

use super::{ExecRules, InlineEval, Judged, Plan, Stage, judge};
use crate::approvals::{Allowed, ApprovalsFile, Ask, Program, Security};

fn rules(exec: &Value, allow: &[&str]) -> ExecRules {
    let mut file = ApprovalsFile::default().of("a");
    file.allowlist = allow.iter().map(|p| Allowed { pattern: (*p).into(), ..Allowed::default() }).collect();
    ExecRules::of(Some(exec), file, None, None)
}

fn stage(words: &[&str]) -> Stage {
    let path = format!("/usr/bin/{}", words[0]);
    Stage {
        program: Program { named: words[0].into(), found: path.clone().into(), real: path.into() },
        args: words[1..].iter().map(|w| (*w).to_owned()).collect(),
        stamp: (0, 0, 0, 0, 0),
    }
}

#[test]
fn the_stricter_word_counts() {
    let of = |exec: Value, file: Value, security, ask| {
        let file: ApprovalsFile = serde_json::from_value(file).unwrap();
        let r = ExecRules::of(Some(&exec), file.of("a"), security, ask);
        (r.security, r.ask)
    };
    use {Ask::*, Security::*};
    assert_eq!(of(json!({}), json!({}), None, None), (Full, OnMiss));
    assert_eq!(of(json!({"mode": "allowlist"}), json!({}), None, None), (Allowlist, Off));
    assert_eq!(of(json!({"mode": "ask"}), json!({}), None, None), (Allowlist, OnMiss));
    assert_eq!(of(json!({"mode": "full", "security": "allowlist"}), json!({}), None, None), (Allowlist, Off));
    assert_eq!(of(json!({"mode": "full"}), json!({"defaults": {"security": "deny"}}), None, None), (Deny, Off));
    assert_eq!(of(json!({"security": "allowlist"}), json!({"agents": {"a": {"ask": "always", "security": "full"}}}), None, None), (Allowlist, Always));
    assert_eq!(of(json!({"security": "allowlist"}), json!({}), Some(Full), Some(Off)), (Allowlist, OnMiss), "a call cannot loosen");
    assert_eq!(of(json!({"security": "full"}), json!({}), Some(Deny), Some(Always)), (Deny, Always));
    assert_eq!(of(json!({"security": "ful"}), json!({}), None, None).0, Deny, "a typing error opens nothing");
    assert_eq!(of(json!({"mode": "yolo"}), json!({}), None, None), (Deny, Always));
}

#[test]
fn programs_that_run_programs_are_never_let_through() {
    let rules = rules(&json!({"safeBins": ["env", "find", "awk", "python3"]}), &["/usr/bin/*", "*"]);
    for words in [
        &["sh", "-c", "x"][..],
        &["bash", "x.sh"],
        &["env", "rm"],
        &["xargs", "rm"],
        &["sudo", "ls"],
        &["find", ".", "-exec", "rm", "{}", ";"],
        &["find", ".", "-execdir", "x"],
        &["python3", "-c", "x"],
        &["python3.11", "-Bc", "x"],
        &["python3"],
        &["python3", "-"],
        &["node", "--eval", "x"],
        &["node", "--ev=x"],
        &["perl", "-lane", "x"],
        &["awk", "BEGIN{system(1)}"],
        &["deno", "eval", "x"],
        &["git", "-c", "alias.x=!sh", "x"],
        &["git", "-ccore.pager=sh", "log"],
        &["busybox", "sh"],
        &["timeout", "5", "sh"],
        &["python3", "-m", "http.server"],
    ] {
        assert!(matches!(judge(&stage(words), &rules, "/h".as_ref(), "/ws".as_ref()), Judged::Miss { remedy: None, .. }), "{words:?}");
    }
    for words in [&["git", "status"][..], &["python3", "script.py", "-c", "x"], &["find", ".", "-name", "x"], &["rg", "-e", "x"], &["ls", "-c"]] {
        assert!(matches!(judge(&stage(words), &rules, "/h".as_ref(), "/ws".as_ref()), Judged::Listed { .. }), "{words:?}");
    }
    let lax = ExecRules { inline_eval: InlineEval::Allow, ..rules };
    assert!(matches!(judge(&stage(&["python3", "-c", "x"]), &lax, "/h".as_ref(), "/ws".as_ref()), Judged::Listed { .. }));
    assert!(matches!(judge(&stage(&["bash", "-c", "x"]), &lax, "/h".as_ref(), "/ws".as_ref()), Judged::Miss { .. }));
}

#[test]
fn a_link_to_a_shell_is_a_shell() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("/bin/sh", dir.join("rg")).unwrap();
    let plan = Plan::of("rg x", "/".as_ref(), dir.to_str().unwrap()).unwrap();
    let rules = rules(&json!({"safeBins": ["rg"]}), &[&format!("{}/*", dir.display()), "rg", "/**"]);
    assert!(matches!(judge(&plan.stages[0], &rules, "/h".as_ref(), "/ws".as_ref()), Judged::Miss { .. }));
}

#[test]
fn a_swapped_file_is_noticed() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let put = |text: &str| {
        let (file, new) = (dir.join("tool"), dir.join("new"));
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, file).unwrap();
    };
    put("one");
    let plan = Plan::of("tool", "/".as_ref(), dir.to_str().unwrap()).unwrap();
    assert!(plan.unchanged());
    put("two");
    assert!(!plan.unchanged());
    assert!(Plan::of("no-such-tool", "/".as_ref(), dir.to_str().unwrap()).is_err());
    assert!(Plan::of("tool; x", "/".as_ref(), dir.to_str().unwrap()).is_err());
}
