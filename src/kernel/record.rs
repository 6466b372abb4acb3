//! Records below /run: what of ours the kernel itself does not tell. After a reboot both are gone.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::fault;

#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", .path.display())]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn because(verb: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = file.to_owned();
    move |source| Error { verb, path, source }
}

/// The record's text; nothing where there is none.
pub fn load(file: &Path) -> Result<String, Error> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(because("read", file)),
    }
}

/// Writes beside the file and renames, so that a crash leaves the old one or the new one. Without a text there is no file.
pub fn store(file: &Path, text: &str) -> Result<(), Error> {
    replace(file, text).map_err(because("write", file))
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    fault::at("write record")?;
    if text.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    DirBuilder::new().recursive(true).mode(0o755).create(file.parent().unwrap_or(Path::new("/")))?;
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fault::at("rename record")?;
    fs::rename(&new, file)
}
