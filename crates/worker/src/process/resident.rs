//! Anonymous memory of this process, as the kernel counts it. Opens the file before the sandbox
//! applies and rereads it through its descriptor.

use std::{fs::File, os::unix::fs::FileExt, sync::LazyLock};

/// `/proc/self/status` is about 1.5 kB.
const STATUS_BYTES_MAX: usize = 8192;

static STATUS: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/status").ok());

/// Opens the file for later reads.
pub(crate) fn prepare() {
    LazyLock::force(&STATUS);
}

/// Returns the resident anonymous memory, proc_pid_status(5), or `None` if the kernel does not
/// report it.
pub(crate) fn anonymous_bytes() -> Option<u64> {
    let mut text = [0; STATUS_BYTES_MAX];
    let length = STATUS.as_ref()?.read_at(&mut text, 0).ok()?;
    parse(str::from_utf8(&text[..length]).ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_follows_allocations() {
        prepare();
        let before = anonymous_bytes().unwrap();
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        let during = anonymous_bytes().unwrap();
        assert!(during >= before + (31 << 20), "{before} {during}");
        drop(block);
        assert_eq!(parse("RssAnon:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(parse("RssAnon:\t   12\n"), None);
        assert_eq!(parse("VmRSS:\t   12 kB\n"), None);
    }
}
