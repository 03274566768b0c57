//! Gives back the pages of the program that only starting needed.
//!
//! Half of what a gateway has resident after its start is program text that reads arguments, config and schemas and
//! sets the store up; the kernel maps it in large pieces and keeps it mapped. Unmapping it once costs a few hundred
//! cheap page faults (the pages stay in the page cache) and saves about 15 MiB of resident memory on an idle gateway.
#![expect(unsafe_code, reason = "madvise has no safe form: it takes addresses")]

#[cfg(target_os = "linux")]
use rustix::mm::{Advice, madvise};

/// Unmaps the program's own text. It comes back page by page where it is used.
#[cfg(target_os = "linux")]
pub fn give_back_start_pages() {
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe")) else { return };
    let Some(program) = program.to_str() else { return };
    for (start, length) in maps.lines().filter_map(|line| text_of(line, program)) {
        // SAFETY: the range is a mapping of our own executable file that is readable, executable and not writable. It
        // has no private pages, so what is dropped is read again from the file as it was.
        let dropped = unsafe { madvise(start as *mut std::ffi::c_void, length, Advice::LinuxDontNeed) };
        if let Err(err) = dropped {
            tracing::debug!(%err, "the pages of the start stay mapped");
        }
    }
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
pub const fn give_back_start_pages() {}

/// Start and length of a line of `/proc/self/maps` that maps text of `program`.
///
/// Only `r-xp`: the read-only data beside it holds relocated addresses, which are private and would be lost.
#[cfg(target_os = "linux")]
fn text_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with("r-xp ") || line.splitn(6, ' ').nth(5)?.trim_start() != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{give_back_start_pages, text_of};

    #[test]
    fn only_text_of_the_program_itself_is_given_back() {
        let text = "55d0c0a01000-55d0c1c28000 r-xp 00200000 fe:00 42      /usr/bin/openclaw";
        assert_eq!(text_of(text, "/usr/bin/openclaw"), Some((0x55d0_c0a0_1000, 0x122_7000)));
        assert_eq!(text_of(text, "/usr/bin/other"), None);
        assert_eq!(text_of(&text.replace("r-xp", "r--p"), "/usr/bin/openclaw"), None, "relocated data stays");
        assert_eq!(text_of(&text.replace("r-xp", "rwxp"), "/usr/bin/openclaw"), None);
    }

    #[test]
    fn the_program_goes_on_after_it() {
        give_back_start_pages();
        assert_eq!("still here".to_uppercase(), "STILL HERE");
    }
}
