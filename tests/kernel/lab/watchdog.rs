//! No test may hang them all: one that lasts too long is told about (who waits for what), and what runs in its namespaces is killed,
//! so that whatever it waits for ends and it fails. Without that, all that is known in the end is that the VM was stopped.

use std::collections::BTreeMap;
use std::io::{Write, stderr};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use super::number;

/// Seconds that a lab may be there, for the longest one (model::…) about four times over; MESHD_TEST_LIMIT says otherwise.
const LIMIT: usize = 900;
/// How long a test may take to fail after that.
const GRACE: Duration = Duration::from_secs(120);

/// The labs that are there: what their namespaces' names begin with.
static LABS: Mutex<BTreeMap<String, Watched>> = Mutex::new(BTreeMap::new());

struct Watched {
    test: String,
    since: Instant,
    barked: Option<Instant>,
}

/// From now until [`forget`].
pub fn watch(prefix: &str) {
    static STARTED: Once = Once::new();
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    labs().insert(prefix.to_owned(), Watched { test, since: Instant::now(), barked: None });
    STARTED.call_once(|| drop(std::thread::spawn(look)));
}

pub fn forget(prefix: &str) {
    labs().remove(prefix);
}

/// A failed test must not hide the others from it.
fn labs() -> MutexGuard<'static, BTreeMap<String, Watched>> {
    LABS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look() {
    let limit = Duration::from_secs(number("MESHD_TEST_LIMIT", LIMIT) as u64);
    loop {
        std::thread::sleep(Duration::from_secs(2));
        for (prefix, watched) in labs().iter_mut() {
            match watched.barked {
                None if watched.since.elapsed() > limit => {
                    watched.barked = Some(Instant::now());
                    bark(prefix, &watched.test, limit);
                }
                Some(barked) if barked.elapsed() > GRACE => {
                    say(&format!("{} does not even fail: no other test runs any more", watched.test));
                    std::process::exit(101);
                }
                _ => {}
            }
        }
    }
}

fn bark(prefix: &str, test: &str, limit: Duration) {
    say(&format!("{test} has not ended within {} s; the machine's processes and threads are:", limit.as_secs()));
    // (A thread's kernel stack says which wait it is.)
    let told = format!(
        "ps -eLo pid,tid,ppid,stat,etimes,wchan:24,args | cut -c 1-200 | grep -v '\\[.*\\]$'
         for task in /proc/{}/task/*; do echo \"$(cat $task/comm):\"; head -n 6 $task/stack; done
         for name in $(ls /run/netns | grep '^{prefix}'); do
             echo \"$name: $(ip netns pids $name | tr '\\n' ' ')\"; ip netns pids $name | xargs -r kill -KILL
         done",
        std::process::id()
    );
    let _ = Command::new("sh").args(["-c", &told]).stdout(stderr()).status();
}

/// To the program's own output: what a test prints (and this thread is some test's) is shown when it has failed, not before.
fn say(what: &str) {
    let _ = writeln!(stderr(), "watchdog: {what}");
}
