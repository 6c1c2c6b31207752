//! The threads that everything is computed on.

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

/// Starts the pool, the calling thread being one of its `n` (`None`: one per core); for a program's main thread, once.
///
/// A model passes on one thread of the pool and what it stores is allocated there. On the main thread that memory lies
/// where [`crate::runtime::release_freed_memory`] finds it; a worker's arena keeps much of what is freed in it.
///
/// - Errors: a pool runs already
pub fn start_threads(n: Option<usize>) -> Result<(), ThreadPoolBuildError> {
    ThreadPoolBuilder::new().num_threads(n.unwrap_or(0)).use_current_thread().build_global()
}
