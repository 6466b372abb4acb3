//! A control group, whose CPU time is counted (cgroups(7), version 2).

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub fn new(name: &str) -> Cgroup {
        // Where it is on already, that is what is wanted.
        let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+cpu");
        let path = Path::new(ROOT).join(format!("meshd-bench-{name}"));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Cgroup { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its processes used while that was done, user and kernel, in seconds.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (f64, T) {
        let before = self.used();
        let done = work();
        (self.used() - before, done)
    }

    fn used(&self) -> f64 {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).expect("a cgroup counts CPU time");
        let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
        used.expect("a number") / 1e6
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes may not have ended yet.
        let _ = fs::remove_dir(&self.path);
    }
}
