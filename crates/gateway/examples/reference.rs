//! Writes the reference pages: `cargo run -p clawstead-gateway --example reference -- docs/reference`.

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "docs/reference".into());
    fs::create_dir_all(&folder)?;
    for (name, text) in clawstead_gateway::docs::pages() {
        fs::write(Path::new(&folder).join(name), text)?;
        println!("{folder}/{name}");
    }
    Ok(())
}
