//! Why no choice could be made.

use crate::eval::EvalError;
use crate::format::dump::DumpError;
use crate::format::profile::ProfileError;
use crate::hint::Hint;
use crate::tune::TuneError;

/// Why no choice could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// The model could not be run, or a text not be used.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The profile is of another model.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A profile cannot be solved or varied.
    #[error(transparent)]
    Tune(#[from] TuneError),
    /// A sample cannot be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
}

impl Hint for ChooseError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Eval(error) => error.hint(),
            Self::Profile(error) => error.hint(),
            Self::Tune(error) => error.hint(),
            Self::Dump(error) => error.hint(),
        }
    }
}
