//! What it costs to ask many backends: `cargo bench --bench checks -- [BACKENDS] [SECONDS]`.
//!
//! The runner asks them as the daemon has it ask, on one thread; they are this host's own, on 127.0.0.0/8, behind listeners
//! that take a connection and close it. Printed is what the asking thread takes of a core, without the listeners.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshd::health::Target;
use meshd::health::runner::{self, Asked};
use meshd::health::state::Standing;
use meshd::mesh::{Check, Mark, OnDown, Probe};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

const INTERVAL: Duration = Duration::from_secs(5);

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u32>().ok());
    let backends = numbers.next().unwrap_or(10_000).min(60_000);
    let seconds = numbers.next().unwrap_or(30);

    let listeners = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let port = listeners.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        port
    });

    let check = Arc::new(Check {
        probe: Probe::Tcp,
        port: None,
        interval: INTERVAL,
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
        on_down: OnDown::Reset,
        start_up: false,
    });
    let one = |number: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
        let target = Target { check: check.clone(), to: SocketAddr::from((address, port)) };
        let asked = Asked { target, incarnation: 1, standing: Standing::Up };
        ((Mark(0x1_0000 | (number % 60_000 + 1)), address.into()), asked)
    };
    let targets: BTreeMap<_, _> = (0..backends).map(one).collect();
    let (_wanted, asked) = watch::channel(Arc::new(targets));
    let (tell, mut news) = mpsc::unbounded_channel();

    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let used = LocalSet::new().block_on(&runtime, async move {
        tokio::task::spawn_local(runner::run(asked, tell));
        // Once all have been asked for the first time.
        tokio::time::sleep(INTERVAL).await;
        let (began, before) = (Instant::now(), thread_time());
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        (thread_time() - before).as_secs_f64() / began.elapsed().as_secs_f64()
    });
    let unwell = std::iter::from_fn(|| news.try_recv().ok()).count();
    println!("{backends} backends, asked every {} s by TCP, for {seconds} s:", INTERVAL.as_secs());
    println!("  {:.1} % of a core; {unwell} changes of standing", used * 100.0);
}

/// What this thread has used of a processor, by /proc/thread-self/schedstat: nanoseconds.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel has schedstat");
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
    Duration::from_nanos(nanoseconds)
}
