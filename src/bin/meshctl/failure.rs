//! Why something was not done, and the exit code that tells it.

use std::fmt;
use std::io;
use std::process::ExitCode;

use meshd::control::protocol::Problem;

/// The exit codes, sysexits(3)'s where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Done = 0,
    Refused = 1,
    Usage = 64,
    Unavailable = 69,
    NotYet = 75,
    NotAllowed = 77,
}

/// As help and man pages have them.
pub const MEANINGS: [(Code, &str); 6] = [
    (Code::Done, "done"),
    (Code::Refused, "refused or failed; standard error says why"),
    (Code::Usage, "the command line, or a file that it names, is wrong"),
    (Code::Unavailable, "no meshd answers at the socket"),
    (Code::NotYet, "accepted, but the kernel did not hold it in time"),
    (Code::NotAllowed, "the user may not do that"),
];

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    /// For people; empty if there is nobody to tell.
    pub detail: String,
    /// What the daemon said.
    pub problem: Option<Box<Problem>>,
}

impl Failure {
    pub fn new(code: Code, detail: impl Into<String>) -> Failure {
        Failure { code, detail: detail.into(), problem: None }
    }

    pub fn refused(detail: impl Into<String>) -> Failure {
        Failure::new(Code::Refused, detail)
    }

    pub fn usage(detail: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Failure {
        Failure::new(Code::Unavailable, detail)
    }

    /// With what would do where no daemon answers, if that is the failure.
    pub fn without_daemon(self, other: &str) -> Failure {
        match self.code {
            Code::Unavailable => Failure { detail: format!("{}; without it, {other}", self.detail), ..self },
            _ => self,
        }
    }

    /// Whether that is the HTTP status of what the daemon said.
    pub fn has_status(&self, status: u16) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.status == status)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        let code = match problem.status {
            403 => Code::NotAllowed,
            503 => Code::Unavailable,
            _ => Code::Refused,
        };
        // With several, the detail has them all in one line.
        let detail = match &problem.errors[..] {
            [_, _, ..] => {
                problem.errors.iter().fold(format!("{}:", problem.title), |text, fault| format!("{text}\n  {fault}"))
            }
            _ if problem.detail.is_empty() => problem.title.clone(),
            _ => problem.detail.clone(),
        };
        Failure { code, detail, problem: Some(Box::new(problem)) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // `meshctl … | head`: the reader has enough, and so has all gone well.
            io::ErrorKind::BrokenPipe => Failure::new(Code::Done, ""),
            _ => Failure::refused(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use meshd::control::protocol::{Fault, Problem};

    use super::{Code, Failure};

    fn problem(status: u16, detail: &str, errors: &[(&str, &str)]) -> Problem {
        let fault = |(place, detail): &(&str, &str)| Fault { place: (*place).into(), detail: (*detail).into() };
        let errors = errors.iter().map(fault).collect();
        Problem { status, title: "Not so".into(), detail: detail.into(), errors }
    }

    #[track_caller]
    fn check(failure: impl Into<Failure>, code: Code, detail: &str) {
        let failure = failure.into();
        assert_eq!((failure.code, failure.detail.as_str()), (code, detail));
    }

    #[test]
    fn a_problem_becomes_a_code_and_lines() {
        check(problem(404, "no service kafak", &[]), Code::Refused, "no service kafak");
        check(problem(409, "", &[]), Code::Refused, "Not so");
        check(problem(403, "not allowed", &[]), Code::NotAllowed, "not allowed");
        check(problem(503, "stopping", &[]), Code::Unavailable, "stopping");
        check(problem(422, "port: none", &[("port", "none")]), Code::Refused, "port: none");
        check(
            problem(422, "a; b", &[("backend[0].address", "\"x\" is no address"), ("", "no port")]),
            Code::Refused,
            "Not so:\n  backend[0].address: \"x\" is no address\n  no port",
        );
    }

    #[test]
    fn a_reader_that_went_is_no_failure() {
        check(io::Error::from(io::ErrorKind::BrokenPipe), Code::Done, "");
        check(io::Error::other("disk full"), Code::Refused, "disk full");
    }
}
