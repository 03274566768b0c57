//! The floors of the house: a crate uses crates on lower floors only. Each manifest says its floor in
//! `package.metadata.clawstead.floor`; there is no list of exceptions.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, bail};
use serde::Deserialize;

#[derive(Deserialize)]
struct Workspace {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null` for a normal one, else `dev` or `build`.
    kind: Option<String>,
    /// `null` for one of this workspace.
    source: Option<String>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    clawstead: Option<Ours>,
}

#[derive(Deserialize)]
struct Ours {
    floor: u32,
}

/// Checks every arrow and prints the wrong ones. Answers whether all are right.
pub fn command(repo: &Path) -> anyhow::Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(["metadata", "--format-version=1", "--no-deps"]).current_dir(repo).output().context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let workspace: Workspace = serde_json::from_slice(&output.stdout).context("the answer of cargo metadata")?;
    let faults = faults(&workspace);
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() {
        println!("{} crates, every arrow goes down", workspace.packages.len());
    }
    Ok(faults.is_empty())
}

fn faults(workspace: &Workspace) -> Vec<String> {
    let mut faults = Vec::new();
    let mut floors = BTreeMap::new();
    for package in &workspace.packages {
        match package.metadata.as_ref().and_then(|metadata| metadata.clawstead.as_ref()) {
            Some(ours) => drop(floors.insert(&*package.name, ours.floor)),
            None => faults.push(format!("{} does not say its floor: add [package.metadata.clawstead] floor = <number>", package.name)),
        }
    }
    for package in &workspace.packages {
        let Some(floor) = floors.get(&*package.name) else { continue };
        let uses = package.dependencies.iter().filter(|dependency| dependency.source.is_none() && dependency.kind.as_deref() != Some("dev"));
        for used in uses {
            match floors.get(&*used.name) {
                Some(below) if below < floor => {}
                Some(other) => faults.push(format!("{} (floor {floor}) may not use {} (floor {other}): only lower floors", package.name, used.name)),
                None => faults.push(format!("{} uses {}, which has no floor", package.name, used.name)),
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{Workspace, faults};

    fn house(packages: &str) -> Vec<String> {
        let workspace: Workspace = serde_json::from_str(&format!("{{\"packages\":[{packages}]}}")).unwrap();
        faults(&workspace)
    }

    fn package(name: &str, floor: u32, uses: &[(&str, &str)]) -> String {
        let uses: Vec<String> = uses.iter().map(|(name, kind)| format!("{{\"name\":\"{name}\",\"kind\":{kind},\"source\":null}}")).collect();
        format!("{{\"name\":\"{name}\",\"metadata\":{{\"clawstead\":{{\"floor\":{floor}}}}},\"dependencies\":[{}]}}", uses.join(","))
    }

    #[test]
    fn arrows_go_strictly_down() {
        let terms = package("terms", 0, &[]);
        assert_eq!(house(&format!("{terms},{}", package("state", 2, &[("terms", "null")]))), Vec::<String>::new());
        let same = [package("state", 2, &[("tools", "null")]), package("tools", 2, &[])].join(",");
        assert_eq!(house(&same), ["state (floor 2) may not use tools (floor 2): only lower floors"]);
        let up = [package("terms", 0, &[("state", "\"build\"")]), package("state", 2, &[("terms", "null")])].join(",");
        assert_eq!(house(&up), ["terms (floor 0) may not use state (floor 2): only lower floors"]);
        // Tests may look up: they are not shipped.
        let in_tests = [package("terms", 0, &[("state", "\"dev\"")]), package("state", 2, &[])].join(",");
        assert_eq!(house(&in_tests), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_a_floor_is_named() {
        let nowhere = "{\"name\":\"new\",\"metadata\":null,\"dependencies\":[{\"name\":\"serde\",\"kind\":null,\"source\":\"registry\"}]}";
        let found = house(&format!("{nowhere},{}", package("cli", 6, &[("new", "null")])));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("new does not say its floor") && found[1] == "cli uses new, which has no floor");
    }

    #[test]
    fn this_house_stands() {
        assert!(super::command(&crate::repository()).unwrap());
    }
}
