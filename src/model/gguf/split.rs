//! Models that are split into several files: `split.no`, `split.count` and `split.tensors.count` of every part.

use std::path::PathBuf;

use crate::checkpoint::Part;
use crate::model::gguf::{Gguf, GgufError};

/// Adds the other parts to one part of a split model; a whole file is returned as it is.
pub(super) fn complete(opened: Gguf) -> Result<Gguf, GgufError> {
    let count = opened.u64_of("split.count")?.unwrap_or(0);
    if count <= 1 {
        return Ok(opened);
    }
    let number = opened.u64_of("split.no")?.unwrap_or(0).saturating_add(1);
    let split = |path: &PathBuf, what: String| GgufError::Split { path: path.clone(), what };
    let path = opened.path.clone();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(part) = Part::of(&name).filter(|part| part.count as u64 == count && part.number as u64 == number) else {
        let what = format!(
            "is part {number} of {count} of a split model, but its name does not end in -{number:05}-of-{count:05}.gguf, \
             so that the other parts cannot be found"
        );
        return Err(split(&path, what));
    };
    let paths: Vec<PathBuf> = part.all().iter().map(|name| path.with_file_name(name)).collect();
    if let Some(missing) = paths.iter().find(|path| !path.exists()) {
        let missing = missing.file_name().unwrap_or_default().display();
        return Err(split(
            &path,
            format!("is part {number} of {count} of a split model, and {missing} is not beside it"),
        ));
    }
    let mut opened = Some(opened);
    let mut whole: Option<Gguf> = None;
    for (index, other) in paths.iter().enumerate() {
        let mut part = match opened.take_if(|opened| &opened.path == other) {
            Some(part) => part,
            None => Gguf::open(other)?,
        };
        let (no, of) = (part.u64_of("split.no")?, part.u64_of("split.count")?);
        if (no, of) != (Some(index as u64), Some(count)) {
            let shown = |n: Option<u64>| n.map_or("none".into(), |n| n.to_string());
            let what = format!(
                "says that its split.no is {} and its split.count {}; {index} and {count} are due",
                shown(no),
                shown(of)
            );
            return Err(split(other, what));
        }
        let Some(whole) = &mut whole else {
            whole = Some(part);
            continue;
        };
        for (name, mut info) in std::mem::take(&mut part.tensors) {
            info.part = index;
            if whole.tensors.insert(name.clone(), info).is_some() {
                return Err(split(other, format!("holds the tensor {name}, which an earlier part holds too")));
            }
        }
        whole.unreadable.append(&mut part.unreadable);
        whole.parts.append(&mut part.parts);
    }
    let Some(whole) = whole else { return Err(split(&path, "has no parts".into())) };
    let n_tensors = (whole.tensors.len() + whole.unreadable.len()) as u64;
    match whole.u64_of("split.tensors.count")? {
        Some(stated) if stated != n_tensors => {
            Err(split(&path, format!("states {stated} tensors in {count} parts, which hold {n_tensors}")))
        }
        _ => Ok(whole),
    }
}
