//! The process' memory as the operating system counts it.

/// Resident bytes of this process; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Gives freed heap pages back to the system, so that a smaller cache is a smaller process.
///
/// glibc keeps freed blocks below its (growing) mmap threshold otherwise; elsewhere this does nothing.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "a C call without arguments that matter and without preconditions")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
