//! The HTML file.

use crate::report::Drawn;
use crate::report::ReportError;
use crate::report::ReportInput;

pub(super) fn render(_: &ReportInput, _: &[Drawn], _: &[(&'static str, &'static str)]) -> Result<String, ReportError> {
    Ok(String::new())
}
