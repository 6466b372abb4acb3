//! A daemon that answers as it is told, on a Unix socket of its own.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// A directory for the socket; it goes with the test.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("meshctl-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        Place(directory)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.file("socket")
    }

    /// The program, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.env("MESHCTL_SOCKET", self.socket()).env_remove("NO_COLOR").stdin(Stdio::null());
        command.args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("meshctl starts").into()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

type Answerer = dyn Fn(&str) -> Response + Send + Sync;

pub struct Fake {
    pub place: Place,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fake {
    /// `answer` gets `METHOD /path?query`.
    pub fn new(answer: impl Fn(&str) -> Response + Send + Sync + 'static) -> Fake {
        Fake::at(Place::new(), answer)
    }

    pub fn at(place: Place, answer: impl Fn(&str) -> Response + Send + Sync + 'static) -> Fake {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let answer: Arc<Answerer> = Arc::new(answer);
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let (socket, record) = (place.socket(), asked.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let router = Router::new().fallback(move |request| handle(request, answer.clone(), record.clone()));
                let listener = UnixListener::bind(&socket).expect("a socket");
                ready.send(()).expect("the test waits");
                tokio::select! {
                    served = axum::serve(listener, router) => served.expect("it serves"),
                    _ = stopped => {}
                }
            });
        });
        listening.recv().expect("it listens");
        Fake { place, asked, stop: Some(stop), thread: Some(thread) }
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.place.run(arguments)
    }

    /// What was asked since the last time: `METHOD /path?query BODY`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends, and leaves the place.
    pub fn stop(mut self) -> Place {
        self.end();
        std::fs::remove_file(self.place.socket()).expect("the socket was there");
        std::mem::replace(&mut self.place, Place(PathBuf::from("/nonexistent/meshctl")))
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end();
    }
}

async fn handle(request: Request, answer: Arc<Answerer>, record: Arc<Mutex<Vec<String>>>) -> Response {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    let body = to_bytes(body, 8 << 20).await.unwrap_or_default();
    let asked = format!("{line} {}", String::from_utf8_lossy(&body)).trim_end().to_owned();
    record.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    answer(&line)
}

pub fn good(value: Value) -> Response {
    answer(200, "application/json", value.to_string())
}

pub fn problem(status: u16, detail: &str) -> Response {
    let problem = json!({ "status": status, "title": "not so", "detail": detail });
    answer(status, "application/problem+json", problem.to_string())
}

pub fn answer(status: u16, kind: &str, body: impl Into<Body>) -> Response {
    let response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    response.header(header::CONTENT_TYPE, kind).body(body.into()).expect("a response")
}

pub fn accepted(generation: u64, result: &str) -> Response {
    good(json!({ "generation": generation, "changed": true, "result": result }))
}

/// Of the socket, with two ports and two backends, one of which is a port's own.
pub fn kafka() -> Value {
    json!({ "owner": "socket", "generation": 7, "service": {
        "name": "kafka", "scheduler": "wrr",
        "port": [
            { "published": 20229, "target": 9092 },
            { "published": 53, "protocol": "udp", "backend": [{ "address": "10.255.0.40" }] },
        ],
        "backend": [{ "address": "10.255.0.33", "weight": 2, "netns": "kafka-1" }],
    }})
}

pub fn services() -> Value {
    json!({ "generation": 7, "services": [kafka()] })
}
