//! Man pages: what clap_mangen makes of the definitions, and the exit codes.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::arguments::Arguments;
use super::failure::{Failure, MEANINGS};

/// One page for each command, with those of the commands below it.
pub fn write(directory: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::refused(format!("cannot write to {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    for (name, text) in pages()? {
        fs::write(directory.join(name), text).map_err(failed)?;
    }
    Ok(())
}

/// Names of files, and what is in them.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = Arguments::command();
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let man = Man::new(command.clone()).manual("meshd").source(concat!("meshd ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let below: Vec<&Command> = command.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    if !below.is_empty() {
        man.render_subcommands_section(&mut text)?;
    }
    text.extend(examples(command).into_bytes());
    text.extend(exit_status().into_bytes());
    text.extend(ENVIRONMENT.bytes());
    text.extend(b".SH \"SEE ALSO\"\n\\fBmeshctl\\fR(1), \\fBipvsadm\\fR(8)\n");
    pages.push((man.get_filename(), text));
    for command in below {
        add(command, pages)?;
    }
    Ok(())
}

const ENVIRONMENT: &str = "\
.SH ENVIRONMENT
.TP
\\fBMESHCTL_SOCKET\\fR
The control socket, where \\fB\\-\\-socket\\fR does not name it.
.TP
\\fBNO_COLOR\\fR
If it is set and not empty, no colours.
";

/// The lines below the title `Examples:` of the help.
fn examples(command: &Command) -> String {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let Some((_, lines)) = help.split_once(":\n").filter(|(title, _)| title.starts_with("Example")) else {
        return String::new();
    };
    // A dot would begin a request of roff's, a hyphen could be broken at.
    let line = |line: &str| format!("\\&{}\n", line.trim().replace('-', "\\-"));
    let lines: String = lines.lines().map(line).collect();
    format!(".SH EXAMPLES\n.nf\n{lines}.fi\n")
}

fn exit_status() -> String {
    let line = |(code, meaning): &(_, &str)| format!(".TP\n\\fB{}\\fR\n{meaning}\n", *code as u8);
    let lines: String = MEANINGS.iter().map(line).collect();
    format!(".SH \"EXIT STATUS\"\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::pages;

    #[test]
    fn every_command_has_its_page_with_the_exit_codes() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["meshctl.1", "meshctl-service.1", "meshctl-service-add.1", "meshctl-top.1"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert!(!names.contains(&"meshctl-generate-man.1"), "{names:?}");
        let add = pages.iter().find(|(name, _)| name == "meshctl-port-add.1").map(|(_, text)| text.clone());
        let add = String::from_utf8(add.unwrap_or_default()).unwrap_or_default();
        assert!(add.contains(".SH EXAMPLES\n.nf\n\\&meshctl port add kafka 20230:9092/tcp\n.fi\n"), "{add}");
        for (name, text) in &pages {
            let text = String::from_utf8_lossy(text);
            assert!(text.contains(".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\ndone\n"), "{name}: {text}");
            assert!(!text.contains("patience"), "{name}: {text}");
        }
    }
}
