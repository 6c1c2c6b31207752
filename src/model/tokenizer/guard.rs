//! Runs code that works on strangers' files without taking the process down: panics become errors, and what takes too
//! long or too much memory is given up.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::files::resident_bytes;

/// How often [`bounded`] looks at the clock and at the memory.
const POLL: Duration = Duration::from_millis(5);

thread_local! {
    /// Whether a panic of this thread is caught and told as an error.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What guarded code may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Room for recursion, in bytes; only what is used is taken.
    pub(super) stack: usize,
    /// Longest time.
    pub(super) time: Duration,
    /// Growth of the process, where the system tells its size.
    pub(super) bytes: u64,
}

/// Why guarded code gave no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It panicked.
    #[error("it fails inside a library: {0}")]
    Panicked(String),
    /// It did not end in time.
    #[error("it does not end within {} s", .0.as_secs())]
    TooLong(Duration),
    /// It took too much memory.
    #[error("it takes more than {} MB of memory", .0 >> 20)]
    TooLarge(u64),
    /// There was no room for its stack.
    #[error("no thread can be started for it: {0}")]
    NoThread(String),
}

/// The result of `work`, or the message of its panic, of which nothing is printed.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Stopped> {
    mute_guarded_threads();
    let outer = IS_GUARDED.replace(true);
    // What `work` has left half done is dropped or read-only: nothing that it changed is used after a panic.
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Stopped::Panicked(text.unwrap_or("without a message").to_string())
    })
}

/// The result of `work` on a thread of its own within limits. Work that is given up goes on until the process ends or its
/// own fuel is spent: nothing can end a thread from outside.
pub(super) fn bounded<T: Send + 'static>(
    limits: Limits,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopped> {
    let (sender, receiver) = channel();
    let builder = std::thread::Builder::new().name("bounded".into()).stack_size(limits.stack);
    let (started, before) = (Instant::now(), resident_bytes());
    // Nobody listens any more when the work was given up.
    let run = move || drop(sender.send(caught(work)));
    let thread = builder.spawn(run).map_err(|error| Stopped::NoThread(error.to_string()))?;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(result) => {
                // The stack is given back before anything else is allocated.
                let _ = thread.join();
                return result;
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Stopped::Panicked("without a message".into())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let grown = resident_bytes().zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
        if grown > limits.bytes {
            return Err(Stopped::TooLarge(limits.bytes));
        }
        if started.elapsed() > limits.time {
            return Err(Stopped::TooLong(limits.time));
        }
    }
}

/// Lets the process' panic hook pass over threads whose panics are caught here.
fn mute_guarded_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                usual(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { stack: 1 << 20, time: Duration::from_secs(60), bytes: 64 << 20 };

    #[test]
    fn panics_become_errors() {
        assert_eq!(caught(|| 7), Ok(7));
        let n: usize = caught(|| 3).unwrap();
        let stopped = caught(|| [0u8; 3][n]).unwrap_err();
        assert!(matches!(&stopped, Stopped::Panicked(text) if text.contains("index out of bounds")), "{stopped}");
        assert!(matches!(bounded(LIMITS, move || [0u8; 3][n]), Err(Stopped::Panicked(_))));
        assert_eq!(bounded(LIMITS, || 7), Ok(7));
    }

    #[test]
    fn endless_work_is_given_up() {
        let limits = Limits { time: Duration::from_millis(20), ..LIMITS };
        let stopped = bounded(limits, || std::thread::sleep(Duration::from_secs(5)));
        assert_eq!(stopped, Err(Stopped::TooLong(limits.time)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn growing_work_is_given_up() {
        let work = || {
            let mut kept = Vec::new();
            // Ends by itself if nobody stops it.
            for _ in 0..100 {
                kept.push(vec![1u8; 4 << 20]);
                std::thread::sleep(Duration::from_millis(20));
            }
            kept.len()
        };
        assert_eq!(bounded(LIMITS, work), Err(Stopped::TooLarge(LIMITS.bytes)));
    }
}
