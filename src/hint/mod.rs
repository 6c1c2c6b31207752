//! What a person can do about an error.

use std::error::Error;
use std::io::ErrorKind;

/// An error that may know what to do next. Every error that reaches the command line implements it.
pub trait Hint: Error {
    /// What the user can do about it. An error that passes on another one's message passes on its hint.
    fn hint(&self) -> Option<String> {
        None
    }
}

impl Hint for std::io::Error {
    fn hint(&self) -> Option<String> {
        let hint = match self.kind() {
            ErrorKind::NotFound => "check the path for a typing error",
            ErrorKind::StorageFull => {
                "free some space or choose another folder with --out; what was finished before is intact"
            }
            ErrorKind::PermissionDenied => "check the permissions, or choose another folder with --out",
            _ => return None,
        };
        Some(hint.into())
    }
}

impl Hint for serde_json::Error {}
