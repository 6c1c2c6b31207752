//! Temp-file-then-rename, so that a reader never sees half a file and an older version survives a failed write.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::files::FileError;

/// A file that appears under its name only when [`AtomicFile::commit`] is called; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
    is_in_place: bool,
}

impl AtomicFile {
    /// Makes the sibling temporary file `.<name>.tmp`, in place of one that a killed run left behind.
    ///
    /// A link of that name is removed, not followed. A folder that several processes may write to has a
    /// [`FolderLock`](crate::files::FolderLock).
    pub fn create(target: &Path) -> Result<Self, FileError> {
        let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = target.with_file_name(format!(".{name}.tmp"));
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(FileError::io("remove", &temporary, e)),
            _ => {}
        }
        let file = File::create_new(&temporary).map_err(|e| FileError::io("create", &temporary, e))?;
        let writer = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { target: target.to_path_buf(), temporary, writer, is_in_place: false })
    }

    /// Flushes, syncs to disk and renames into place. After an error the temporary file is gone.
    pub fn commit(mut self) -> Result<(), FileError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let written = writer.flush().and_then(|()| writer.get_ref().sync_all());
        drop(writer.into_parts());
        written.map_err(|e| FileError::io("write", &self.target, e))?;
        std::fs::rename(&self.temporary, &self.target)
            .map_err(|e| FileError::io("rename into place", &self.target, e))?;
        self.is_in_place = true;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.writer {
            Some(writer) => writer.write(bytes),
            None => Err(std::io::Error::other("file already committed")),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // Dropping the BufWriter would try to flush into a full disk again; into_parts does not.
        drop(self.writer.take().map(BufWriter::into_parts));
        if !self.is_in_place {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` to `path` in one step.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|e| FileError::io("write", path, e))?;
    file.commit()
}

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).map_err(|e| FileError::io("create the folder", path, e))
}

/// Creates a folder within one of our own, which must not be a link out of it.
pub fn create_own_dir(path: &Path) -> Result<(), FileError> {
    if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return Err(FileError::NotRegular { path: path.into(), found: "a link, which is not followed here" });
    }
    create_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncommitted_file_leaves_the_old_one_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_under_the_temporary_name_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.json"), dir.path().join("other"));
        std::fs::write(&other, b"mine").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join(".a.json.tmp")).unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_commit_that_fails_leaves_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = AtomicFile::create(&path).unwrap();
        // Nothing can be renamed onto a folder that holds something.
        std::fs::create_dir_all(path.join("b")).unwrap();
        assert!(file.commit().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_no_folder_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        create_own_dir(&dir.path().join("a")).unwrap();
        create_own_dir(&dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        assert!(matches!(create_own_dir(&dir.path().join("b")), Err(FileError::NotRegular { .. })));
    }
}
