//! The configuration file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, Errors};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// One line for each thing that is wrong, with file, line and column.
    #[error("{0}")]
    Config(Errors),
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Config, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Config::parse(&text, &path.display().to_string()).map_err(Error::Config)
}
