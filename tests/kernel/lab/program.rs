//! The program, run otherwise than as a daemon that gets ready.

use std::process::{Command, Output};

use super::{Config, Lab, daemon};

impl Lab {
    /// Starts meshd, which must refuse with exit code 1; answers what it said.
    pub fn refuses(&self, config: &Config) -> String {
        self.write(config);
        let mut meshd = self.spawn();
        let status = meshd.wait();
        let said = meshd.log();
        assert_eq!(status.code(), Some(1), "{said}");
        said
    }

    /// Runs meshd on the node by way of another program, its words divided by spaces.
    pub fn meshd_under(&self, wrapper: &str) -> Output {
        let mut words = wrapper.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg(daemon::program()).arg("--config").arg(self.config_file());
        self.node.output(&mut command)
    }
}
