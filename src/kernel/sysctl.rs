//! Kernel parameters by their dotted names (sysctl(8)), and the host's original values of those we change.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{fault, netns, record};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} kernel parameter {name}")]
    Parameter {
        verb: &'static str,
        name: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Record(#[from] record::Error),
    #[error("{}: line {line}: found {found:?} where `name = value` should be", .path.display())]
    Torn { path: PathBuf, line: usize, found: String },
}

impl Error {
    /// Whether it is that the kernel has no such parameter.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Parameter { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A parameter of that namespace; `None` where it does not exist, as of a link that is gone.
pub fn read(netns: &OwnedFd, name: &str) -> Result<Option<String>> {
    netns::within(netns, || get(name)).map_err(parameter("read", name))?
}

pub fn write(netns: &OwnedFd, name: &str, value: &str) -> Result<()> {
    netns::within(netns, || put(name, value)).map_err(parameter("set", name))?
}

/// The same for the calling thread's namespace.
pub(super) fn get(name: &str) -> Result<Option<String>> {
    match path_of(name).and_then(fs::read_to_string) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(parameter("read", name)(error)),
    }
}

pub(super) fn put(name: &str, value: &str) -> Result<()> {
    let written = path_of(name).and_then(|path| fault::at("set parameter").and_then(|()| fs::write(path, value)));
    written.map_err(parameter("set", name))
}

fn parameter(verb: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Parameter { verb, name: name.to_owned(), source }
}

/// A name with a slash is taken as a path, as sysctl(8) does: `net/ipv4/conf/eth0.100/forwarding`.
fn path_of(name: &str) -> io::Result<PathBuf> {
    let path = slashed(name);
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a parameter's name"));
    }
    Ok(Path::new("/proc/sys").join(path))
}

fn slashed(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { name.replace('.', "/") }
}

/// The parameters of the host, the calling thread's namespace. The original values of those that we changed
/// are in a file below /run: after a reboot the parameters are original again, and the file is gone.
#[derive(Clone, Debug)]
pub struct Host {
    file: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Original {
    value: String,
    /// Other parameters that the kernel changes along with this one, and their values.
    along: Vec<(String, String)>,
}

impl Host {
    pub fn new(directory: impl AsRef<Path>) -> Host {
        Host { file: directory.as_ref().join("sysctl") }
    }

    /// Sets the parameter. What it was before meshd first changed it is recorded first.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let before = get(name)?.ok_or_else(|| parameter("set", name)(ErrorKind::NotFound.into()))?;
        if before == value {
            return Ok(());
        }
        let mut all = self.load()?;
        if !all.contains_key(name) {
            let along = changed_along(name, &before)?;
            all.insert(name.to_owned(), Original { value: before, along });
            self.store(&all)?;
        }
        put(name, value)
    }

    /// Gives the parameter its original value back, if we have one. One whose link is gone is restored.
    pub fn restore(&self, name: &str) -> Result<()> {
        let mut all = self.load()?;
        let Some(Original { value, along }) = all.remove(name) else { return Ok(()) };
        let own = (name.to_owned(), value);
        for (name, value) in std::iter::once(&own).chain(&along) {
            match put(name, value) {
                Err(Error::Parameter { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.store(&all)
    }

    /// The parameters that are ours to restore, and their original values.
    pub fn recorded(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.load()?.into_iter().map(|(name, original)| (name, original.value)).collect())
    }

    fn load(&self) -> Result<BTreeMap<String, Original>> {
        let text = record::load(&self.file)?;
        parse(&text).map_err(|(line, found)| Error::Torn { path: self.file.clone(), line, found })
    }

    fn store(&self, all: &BTreeMap<String, Original>) -> Result<()> {
        Ok(record::store(&self.file, &print(all))?)
    }
}

/// What the kernel changes along with a parameter, as it is now.
///
/// To switch forwarding for all sets it on every link, and (IPv4 only) turns `accept_redirects` for all to
/// the opposite. So links that differ from `value`, the one for all, would come out changed.
fn changed_along(name: &str, value: &str) -> Result<Vec<(String, String)>> {
    let slashed = slashed(name);
    let (family, mut along): (_, Vec<_>) = match slashed.as_str() {
        "net/ipv4/ip_forward" | "net/ipv4/conf/all/forwarding" => {
            let redirects = "net/ipv4/conf/all/accept_redirects";
            ("ipv4", get(redirects)?.map(|value| (redirects.to_owned(), value)).into_iter().collect())
        }
        "net/ipv6/conf/all/forwarding" => ("ipv6", Vec::new()),
        _ => return Ok(Vec::new()),
    };
    let directory = format!("net/{family}/conf");
    let links = path_of(&directory).and_then(fs::read_dir).map_err(parameter("list", &directory))?;
    for link in links.filter_map(io::Result::ok) {
        let Ok(link) = link.file_name().into_string() else { continue };
        let name = format!("{directory}/{link}/forwarding");
        let differs = |own: &String| link != "all" && own != value;
        along.extend(get(&name)?.filter(differs).map(|own| (name, own)));
    }
    along.sort();
    Ok(along)
}

/// One parameter on a line; what goes with it follows, indented.
fn print(all: &BTreeMap<String, Original>) -> String {
    let mut text = String::new();
    for (name, Original { value, along }) in all {
        text.push_str(&format!("{name} = {value}\n"));
        for (name, value) in along {
            text.push_str(&format!("  {name} = {value}\n"));
        }
    }
    text
}

/// The opposite of [`print`]; the error is the line's number and the line.
fn parse(text: &str) -> std::result::Result<BTreeMap<String, Original>, (usize, String)> {
    let mut all: BTreeMap<String, Original> = BTreeMap::new();
    let mut last: Option<String> = None;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let torn = || (number + 1, line.trim_end_matches('\n').to_owned());
        // The last line, too, ends with its newline, or it was cut short.
        let (name, value) = line.strip_suffix('\n').and_then(|line| line.split_once(" = ")).ok_or_else(torn)?;
        let bare = name.trim_start();
        if bare.is_empty() || bare.contains(char::is_whitespace) || path_of(bare).is_err() {
            return Err(torn());
        }
        if bare == name {
            let original = Original { value: value.to_owned(), along: Vec::new() };
            if all.insert(name.to_owned(), original).is_some() {
                return Err(torn());
            }
            last = Some(name.to_owned());
        } else {
            let above = last.as_ref().and_then(|name| all.get_mut(name)).ok_or_else(torn)?;
            above.along.push((bare.to_owned(), value.to_owned()));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_keeps_its_dots() {
        let check = |name: &str, path: &str| assert_eq!(path_of(name).unwrap(), Path::new(path));
        check("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward");
        check("net/ipv4/conf/eth0.100/forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding");
        for name in ["", "/etc/passwd", "net/../../etc/passwd", "net..ip_forward", "."] {
            assert!(path_of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let text = "net.ipv4.ip_forward = 0\n  net/ipv4/conf/eth0.100/forwarding = 1\n  net/ipv4/conf/lo/forwarding = 1\n\
                    net.ipv4.ip_local_port_range = 32768\t60999\nnet.ipv4.ip_local_reserved_ports = \n";
        let all = parse(text).unwrap();
        assert_eq!(
            all["net.ipv4.ip_forward"].along[0],
            ("net/ipv4/conf/eth0.100/forwarding".to_owned(), "1".to_owned())
        );
        assert_eq!(all["net.ipv4.ip_local_reserved_ports"].value, "");
        assert_eq!(print(&all), text);
    }

    #[test]
    fn a_torn_record_is_refused_with_its_line() {
        let check = |text: &str, line: usize| assert_eq!(parse(text).unwrap_err().0, line, "{text:?}");
        check("net.ipv4.ip_forward = 0", 1);
        check("net.ipv4.ip_forward = 0\nnet.ipv4", 2);
        check("net.ipv4.ip_forward = 0\n\n", 2);
        check("\0\0\0\n", 1);
        check("  net/ipv4/conf/lo/forwarding = 1\n", 1);
        check("net.ipv4.ip_forward = 0\nnet.ipv4.ip_forward = 1\n", 2);
        check("../etc/passwd = 0\n", 1);
        check(" = 0\n", 1);
    }

    #[test]
    fn an_original_is_recorded_once_and_survives_others() {
        let directory = std::env::temp_dir().join(format!("meshd-originals-{}", std::process::id()));
        let originals = Host::new(directory.join("node"));
        assert_eq!(originals.recorded().unwrap(), BTreeMap::new());
        let one = |value: &str| Original { value: value.to_owned(), along: Vec::new() };
        originals.store(&BTreeMap::from([("a.b".to_owned(), one("1")), ("a.c".to_owned(), one("2"))])).unwrap();
        assert_eq!(originals.recorded().unwrap()["a.c"], "2");
        // The parameter does not exist, like one of a link that is gone.
        originals.restore("a.b").unwrap();
        originals.restore("a.b").unwrap();
        assert_eq!(originals.recorded().unwrap(), BTreeMap::from([("a.c".to_owned(), "2".to_owned())]));
        fs::write(&originals.file, "garbage\n").unwrap();
        let error = originals.recorded().unwrap_err().to_string();
        assert!(error.ends_with("node/sysctl: line 1: found \"garbage\" where `name = value` should be"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
