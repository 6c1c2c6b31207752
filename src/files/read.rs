//! Reads files that strangers may have made: regular files only, up to a limit, never waiting.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Component, Path};

use memmap2::Mmap;

use crate::files::FileError;

/// Opens a regular file. A folder, a pipe or a device is an error; none is waited for.
///
/// Links are followed: the hub's cache is made of them. [`open_own`] does not follow the last one.
pub fn open_regular(path: &Path) -> Result<File, FileError> {
    open(path, false)
}

/// As [`open_regular`], refusing a link: a file of one of our own folders, which must not lead out of it.
pub fn open_own(path: &Path) -> Result<File, FileError> {
    open(path, true)
}

/// Opens a file of one of our own folders to write behind its end, making it where there is none.
pub fn append_own(path: &Path) -> Result<File, FileError> {
    let mut options = File::options();
    options.append(true).create(true);
    open_with(&mut options, path, true)
}

fn open(path: &Path, is_own: bool) -> Result<File, FileError> {
    open_with(File::options().read(true), path, is_own)
}

fn open_with(options: &mut OpenOptions, path: &Path, is_own: bool) -> Result<File, FileError> {
    let io = |e| FileError::io("open", path, e);
    if is_own && path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return Err(FileError::NotRegular { path: path.into(), found: "a link, which is not followed here" });
    }
    // Opening a pipe would wait for its writer.
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        let no_follow = if is_own { OFlags::NOFOLLOW } else { OFlags::empty() };
        options.custom_flags((OFlags::NONBLOCK | no_follow).bits() as i32);
    }
    let file = options.open(path).map_err(io)?;
    let kind = file.metadata().map_err(io)?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let found = if kind.is_dir() { "a folder, not a file" } else { "a pipe or a device, not a file" };
    Err(FileError::NotRegular { path: path.into(), found })
}

/// As [`append_own`], of a file that may be lost: what is there under the name and is no file of its own, a link or one
/// more name of another file, is replaced.
pub fn open_to_append(path: &Path) -> Result<File, FileError> {
    if path.symlink_metadata().is_ok_and(|found| !found.is_dir() && !is_alone(&found)) {
        std::fs::remove_file(path).map_err(|e| FileError::io("remove", path, e))?;
    }
    append_own(path)
}

/// Whether it is a regular file with a single name.
fn is_alone(found: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        found.is_file() && found.nlink() == 1
    }
    #[cfg(not(unix))]
    {
        found.is_file()
    }
}

/// Whether a name that a file gives for another stays within the folder.
pub fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// All bytes of a regular file of at most `limit` bytes; `expected` names the kind of file in the error.
pub fn read_limited(path: &Path, expected: &'static str, limit: u64) -> Result<Vec<u8>, FileError> {
    read_opened(open_regular(path)?, path, expected, limit)
}

/// As [`read_limited`], of a file of our own folders: [`open_own`].
pub fn read_own(path: &Path, expected: &'static str, limit: u64) -> Result<Vec<u8>, FileError> {
    read_opened(open_own(path)?, path, expected, limit)
}

fn read_opened(file: File, path: &Path, expected: &'static str, limit: u64) -> Result<Vec<u8>, FileError> {
    let io = |e| FileError::io("read", path, e);
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(FileError::TooLarge { path: path.into(), expected, bytes, limit });
    }
    let mut text = Vec::with_capacity(bytes as usize);
    // The file may grow while it is read.
    let n = file.take(limit + 1).read_to_end(&mut text).map_err(io)? as u64;
    if n > limit {
        return Err(FileError::TooLarge { path: path.into(), expected, bytes: n, limit });
    }
    Ok(text)
}

/// Fills `into` with the bytes of a file from `at` on; threads may share the file.
pub fn read_at(file: &File, into: &mut [u8], at: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileExt;
        file.read_exact_at(into, at)
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::FileExt;
        let mut done = 0;
        while done < into.len() {
            match file.seek_read(&mut into[done..], at + done as u64)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// Maps a regular file for reading.
pub fn map_file(path: &Path) -> Result<Mmap, FileError> {
    map_opened(&open_regular(path)?, path)
}

/// As [`map_file`], of a file that is open.
pub fn map_opened(file: &File, path: &Path) -> Result<Mmap, FileError> {
    #[expect(
        unsafe_code,
        reason = "mapping a file: one that is cut while it is mapped ends the process; weights are replaced by renaming"
    )]
    let map = unsafe { Mmap::map(file) };
    map.map_err(|e| FileError::io("map", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_limited(&path, "toy", 5).unwrap(), b"12345");
        assert!(matches!(read_limited(&path, "toy", 4), Err(FileError::TooLarge { bytes: 5, .. })));
        assert!(matches!(open_regular(dir.path()), Err(FileError::NotRegular { found: "a folder, not a file", .. })));
        assert!(matches!(open_regular(&dir.path().join("b")), Err(FileError::Io { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_and_links_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(matches!(open_regular(&pipe), Err(FileError::NotRegular { .. })));
        let zero = dir.path().join("zero");
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        assert!(matches!(read_limited(&zero, "toy", 5), Err(FileError::NotRegular { .. })));
        std::fs::write(dir.path().join("a"), b"1").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("a", &link).unwrap();
        assert!(open_regular(&link).is_ok());
        assert!(matches!(open_own(&link), Err(FileError::NotRegular { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_appended_to_what_a_link_leads_to() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let (mine, soft, hard) = (dir.path().join("mine"), dir.path().join("soft"), dir.path().join("hard"));
        std::fs::write(&mine, b"mine").unwrap();
        std::os::unix::fs::symlink(&mine, &soft).unwrap();
        std::fs::hard_link(&mine, &hard).unwrap();
        for path in [&soft, &hard] {
            for text in [b"a", b"b"] {
                open_to_append(path).unwrap().write_all(text).unwrap();
            }
            assert_eq!(std::fs::read(path).unwrap(), b"ab");
        }
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
    }
}
