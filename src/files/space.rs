//! Free space of a file system, so that a long job can refuse to start.

use std::path::Path;

/// Bytes that an unprivileged process may still write below `dir`; `None` where the system does not tell.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(dir).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}
