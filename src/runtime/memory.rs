//! Memory that the allocator keeps.

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
