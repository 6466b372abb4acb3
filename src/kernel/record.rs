//! Records below /run: what of ours the kernel itself does not tell. After a reboot both are gone.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The record's text; nothing where there is none.
pub fn load(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Writes beside the file and renames, so that a crash leaves the old one or the new one. Without a text there is no file.
pub fn store(file: &Path, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    DirBuilder::new().recursive(true).mode(0o755).create(file.parent().unwrap_or(Path::new("/")))?;
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}
