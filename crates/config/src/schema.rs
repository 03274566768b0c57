//! The table of known keys. It lies in the binary as sorted text and is searched in place: nothing is parsed before
//! a key is looked up, and nothing is kept.

/// `path <tab> type <tab> era`, sorted by path. See `tools/build_schema.py` for the notation.
static TABLE: &str = include_str!("schema.tsv");

/// In which releases a key is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// March and now.
    Both,
    /// March only.
    March,
    /// Now only.
    Now,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Segments joined by dots, `*` for any key or position.
    pub path: &'static str,
    /// The type in the table's notation.
    pub kind: &'static str,
    /// The era.
    pub era: Era,
}

fn line_at(offset: usize) -> (usize, &'static str) {
    let start = TABLE.as_bytes()[..offset.min(TABLE.len())].iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
    let rest = &TABLE[start..];
    (start, rest.split('\n').next().unwrap_or_default())
}

fn row_of(line: &'static str) -> Option<Row> {
    let mut parts = line.split('\t');
    let (path, kind, era) = (parts.next()?, parts.next()?, parts.next()?);
    let era = match era {
        "m" => Era::March,
        "n" => Era::Now,
        _ => Era::Both,
    };
    Some(Row { path, kind, era })
}

/// Offset of the first line whose path is not before `path`.
fn lower_bound(path: &str) -> usize {
    let (mut lo, mut hi) = (0, TABLE.len());
    while lo < hi {
        let mid = lo + (hi - lo) / 2;
        let (start, line) = line_at(mid);
        let here = line.split('\t').next().unwrap_or_default();
        if here.as_bytes() < path.as_bytes() {
            lo = (start + line.len() + 1).min(TABLE.len());
        } else {
            hi = start;
        }
    }
    lo
}

/// The row of exactly this path (in table notation).
#[must_use]
pub fn row(path: &str) -> Option<Row> {
    let (_, line) = line_at(lower_bound(path));
    row_of(line).filter(|r| r.path == path)
}

/// The rows right below a path; `""` for the roots.
pub fn children(path: &str) -> impl Iterator<Item = Row> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let start = lower_bound(&prefix);
    let end_prefix = prefix.clone();
    TABLE[start.min(TABLE.len())..].lines().map_while(row_of).take_while(move |r| r.path.starts_with(end_prefix.as_str())).filter(move |r| {
        let rest = &r.path[prefix.len()..];
        !rest.is_empty() && !rest.contains('.')
    })
}

/// All rows in path order.
pub fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter_map(row_of)
}

/// Follows `@path`.
#[must_use]
pub fn target(found: Row) -> Row {
    let mut here = found;
    for _ in 0..4 {
        match here.kind.strip_prefix('@').and_then(row) {
            Some(next) => here = next,
            None => break,
        }
    }
    here
}

/// The row for a real path: named keys first, then `*`, following `@`. None for unknown and free keys.
#[must_use]
pub fn find(path: &[String]) -> Option<Row> {
    let mut here: Option<Row> = None;
    for segment in path {
        here = Some(child(here.map_or("", |r| r.path), segment)?);
    }
    here
}

/// One step down from a row (after `@`).
#[must_use]
pub fn child(path: &str, segment: &str) -> Option<Row> {
    let join = |last: &str| if path.is_empty() { last.to_owned() } else { format!("{path}.{last}") };
    let named = if segment == "*" || segment.contains('\t') || segment.contains('\n') || segment.contains('.') { None } else { row(&join(segment)) };
    named.or_else(|| row(&join("*"))).map(target)
}

/// True when the table says that the place holds a credential.
#[must_use]
pub fn is_secret(path: &[String]) -> bool {
    find(path).is_some_and(|r| r.kind.split('|').any(|k| k == "S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_searched() {
        let paths: Vec<&str> = rows().map(|r| r.path).collect();
        assert!(paths.len() > 2000);
        assert!(paths.windows(2).all(|w| w[0].as_bytes() < w[1].as_bytes()));
        for r in rows() {
            assert_eq!(row(r.path), Some(r), "{}", r.path);
            assert!(!target(r).kind.starts_with('@'), "{}", r.path);
        }
        assert_eq!(row("gateway.nope"), None);
        assert_eq!(row(""), None);
        assert_eq!(row("zzz"), None);
        let p = |s: &str| s.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_secret(&p("gateway.auth.token")));
        assert!(is_secret(&p("models.providers.litellm.apiKey")));
        assert!(is_secret(&p("channels.slack.accounts.a.botToken")));
        assert!(!is_secret(&p("gateway.port")));
        assert_eq!(find(&p("agents.list.0.tools.exec.security")).map(|r| r.kind), Some("=deny,allowlist,full"));
        assert!(children("gateway").any(|r| r.path == "gateway.port"));
        assert!(children("").any(|r| r.path == "agents"));
        assert!(children("").all(|r| !r.path.contains('.')));
    }
}
