//! One writer a folder: a lock that the system gives back when its holder dies.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::{FileError, create_dir};

/// Name of the lock's file, in the folder that it protects.
pub const LOCK_NAME: &str = ".kvscope-lock.tmp";

/// How often a lock is asked for.
const ATTEMPTS: usize = 5;
/// Time between two attempts: longer than a child takes to start.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// The right to write into a folder, as long as it lives. Other folders of one process may be held at once.
///
/// The file is removed at the end; one that a killed run left behind is held by nobody and is taken over.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    /// Whether the folder was made for it: it goes again when nothing was put into it.
    made_folder: bool,
    // Closing it gives the lock back.
    file: File,
}

impl FolderLock {
    /// Takes the lock of a folder, which is made where there is none.
    ///
    /// - Errors: another process (or this one) holds it; the folder cannot be written
    pub fn take(dir: &Path) -> Result<Self, FileError> {
        let made_folder = !dir.exists();
        create_dir(dir)?;
        let path = dir.join(LOCK_NAME);
        loop {
            let file = open(&path).map_err(|e| FileError::io("create", &path, e))?;
            if !lock(&file).map_err(|e| FileError::io("lock", &path, e))? {
                return Err(FileError::Busy(dir.into()));
            }
            // Its last holder may have removed the file between opening and locking.
            if is_same(&file, &path) {
                return Ok(Self { path, made_folder, file });
            }
        }
    }

    /// Gives the folder its final name while nobody else can write to it.
    pub fn rename_folder(&mut self, from: &Path, to: &Path) -> Result<(), FileError> {
        std::fs::rename(from, to).map_err(|e| FileError::io("rename into place", to, e))?;
        self.path = to.join(LOCK_NAME);
        Ok(())
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Removed while it is still held, so that nobody can hold it under this name at the same time.
        if is_same(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
        if let (true, Some(dir)) = (self.made_folder, self.path.parent()) {
            // Fails where there is something in it.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Locks an open file against other processes; whether it could be had.
///
/// A child that another thread is starting holds what was open until it becomes its own program, so one that is taken is asked
/// for again a few times.
pub fn lock(file: &File) -> std::io::Result<bool> {
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_ATTEMPTS),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(false)
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // A link of that name must not make a file elsewhere, nor a pipe wait.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    }
    options.open(path)
}

fn is_same(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |m: &std::fs::Metadata| (m.dev(), m.ino());
        matches!((file.metadata(), path.symlink_metadata()), (Ok(a), Ok(b)) if place(&a) == place(&b))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_the_name_goes_with_the_first() {
        let dir = tempfile::tempdir().unwrap();
        // What a killed run leaves.
        std::fs::write(dir.path().join(LOCK_NAME), b"").unwrap();
        let first = FolderLock::take(dir.path()).unwrap();
        assert!(matches!(FolderLock::take(dir.path()), Err(FileError::Busy(_))));
        drop(first);
        assert!(!dir.path().join(LOCK_NAME).exists());
        drop(FolderLock::take(dir.path()).unwrap());
        assert!(dir.path().exists());
    }

    #[test]
    fn a_folder_that_was_made_for_nothing_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, used) = (dir.path().join("a/b"), dir.path().join("c"));
        drop(FolderLock::take(&empty).unwrap());
        assert!(!empty.exists());
        let lock = FolderLock::take(&used).unwrap();
        std::fs::write(used.join("x"), b"x").unwrap();
        drop(lock);
        assert!(used.join("x").exists() && !used.join(LOCK_NAME).exists());
    }
}
