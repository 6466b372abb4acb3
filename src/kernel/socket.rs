//! One netlink socket: requests in batches, acknowledgements by sequence number, dumps, transactions.
//!
//! Netlink is a function call in disguise: when `sendmsg` returns, the kernel has done what was asked and
//! its answer lies in the receive queue. So these calls do not wait for anything but the kernel's own work,
//! and a batch of 500 requests costs one system call to send. A socket stays in the network namespace in
//! which it was opened.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, sendmsg, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::replies::Readers;
use super::{attribute, fault};

const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_MULTI: u16 = 0x2;
pub const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
/// In an acknowledgement: the request is not echoed; attributes with an explanation follow.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Requests sent with one system call. Their acknowledgements must fit the receive buffer.
const WINDOW: usize = 500;
/// Bytes; the largest send of a window. Larger only if one message is.
const WINDOW_BYTES: usize = 96 * 1024;
/// Bytes; more than 500 acknowledgements with their bookkeeping take.
pub(super) const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// A kernel that does not answer in that time never will.
const PATIENCE_SECONDS: i64 = 20;
/// A dump that something else kept changing is tried again that often.
const DUMP_TRIES: usize = 10;

/// Why the kernel did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused; `reason` is its own explanation, where it gave one (NETLINK_EXT_ACK).
    #[error("{}{}", .errno.desc(), .reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Refused { errno: Errno, reason: Option<String> },
    #[error("cannot talk to the kernel over netlink")]
    Io(#[from] io::Error),
    #[error("the kernel's answer is not understood: {0}")]
    Malformed(&'static str),
    #[error("a listing was interrupted by changes {DUMP_TRIES} times")]
    Interrupted,
}

impl Error {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            Error::Io(error) => error.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    pub fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::Io(errno.into())
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A request: netlink message type, flags beside `NLM_F_REQUEST`, and the body after the header.
#[derive(Clone, Debug)]
pub struct Request {
    pub kind: u16,
    pub flags: u16,
    pub body: Vec<u8>,
}

/// One answer of the kernel: its message type and its body.
#[derive(Clone, Debug)]
pub struct Reply {
    pub kind: u16,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A message as it came, still in the socket's buffer.
struct Incoming<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Socket {
    /// Opens a socket of that netlink protocol (`NETLINK_ROUTE`, …) in the calling thread's network namespace.
    pub fn open(protocol: isize) -> Result<Socket> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations and short acknowledgements are a comfort, not a need.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Without CAP_NET_ADMIN the plain option must do, up to net.core.rmem_max.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Socket { socket, port, sequence: 0, buffer: vec![0; 1 << 18] })
    }

    /// The kernel's number of this socket: what it tells others of our changes has it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Asks for one thing and waits for its acknowledgement.
    pub fn request(&mut self, request: Request) -> Result<()> {
        self.requests(std::slice::from_ref(&request)).pop().unwrap_or(Err(Error::Malformed("no acknowledgement")))
    }

    /// Asks for many things at once; the answer has one result for each, in order.
    pub fn requests(&mut self, requests: &[Request]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(requests.len());
        while results.len() < requests.len() {
            let window = window(&requests[results.len()..]);
            let outcome = self.acknowledged(window);
            match outcome {
                Ok(some) => results.extend(some),
                // What became of them is unknown: each is told so, and the next look at the kernel decides.
                Err(error) => {
                    let kind = error.errno().unwrap_or(Errno::EIO);
                    results.extend(window.iter().map(|_| Err(Error::Io(kind.into()))));
                }
            }
        }
        results
    }

    /// Asks for one object: its answer, which some families send without an acknowledgement after it.
    pub fn get(&mut self, request: Request) -> Result<Reply> {
        let sequence = self.send(&[request], NLM_F_REQUEST)?;
        let mut reply = None;
        self.receive(|message| {
            if message.sequence != sequence {
                return Ok(false);
            }
            if message.kind == NLMSG_ERROR {
                acknowledgement(message)?;
            } else {
                reply = Some(Reply { kind: message.kind, body: message.body.to_vec() });
            }
            Ok(true)
        })?;
        reply.ok_or(Error::Malformed("an acknowledgement where an object was asked for"))
    }

    /// Asks for a list, and hands over each answer's type and body. A list that changed while it was read is
    /// read again from its start, which `restart` is told.
    pub fn dump<T>(&mut self, request: &Request, mut each: impl FnMut(u16, &[u8]) -> Option<T>) -> Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let mut interrupted = false;
            let sequence = self.send(std::slice::from_ref(request), NLM_F_REQUEST | NLM_F_DUMP)?;
            self.receive(|message| {
                if message.sequence != sequence {
                    return Ok(false);
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => {
                        done(message)?;
                        Ok(true)
                    }
                    NLMSG_ERROR => acknowledgement(message).map(|()| true),
                    kind => {
                        found.extend(each(kind, message.body));
                        Ok(message.flags & NLM_F_MULTI == 0)
                    }
                }
            })?;
            interrupted |= fault::at("list").is_err();
            if !interrupted {
                return Ok(found);
            }
        }
        Err(Error::Interrupted)
    }

    /// Sends a netfilter batch: `begin` and `end` go unacknowledged, the requests between them take effect
    /// together or not at all. It must reach the kernel in one piece, however large (the kernel takes one
    /// transaction from one send).
    ///
    /// # Errors
    /// One for each request that the kernel objected to, by its place; if that list is empty while the
    /// transaction failed, the error stands at place 0.
    pub fn transaction(
        &mut self,
        begin: Request,
        requests: &[Request],
        end: Request,
    ) -> std::result::Result<(), Vec<(usize, Error)>> {
        if requests.is_empty() {
            return Ok(());
        }
        let whole = |error: Error| vec![(0, error)];
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        self.encode(&begin, NLM_F_REQUEST, &mut bytes);
        for request in requests {
            self.encode(request, NLM_F_REQUEST | NLM_F_ACK, &mut bytes);
        }
        self.encode(&end, NLM_F_REQUEST, &mut bytes);
        self.send_bytes(&bytes).map_err(whole)?;

        let mut failures = Vec::new();
        let mut acknowledged = 0;
        let outcome = self.receive(|message| {
            if message.kind != NLMSG_ERROR {
                return Ok(false);
            }
            let place = message.sequence.wrapping_sub(first) as usize;
            if place > requests.len() + 1 {
                return Ok(false);
            }
            match acknowledgement(message) {
                Ok(()) => acknowledged += 1,
                Err(error) => {
                    // The batch as a whole may be refused at its begin message (place 0) or its end: then
                    // nothing more comes.
                    let alone = place == 0 || place == requests.len() + 1;
                    failures.push((place.saturating_sub(1).min(requests.len() - 1), error));
                    if alone {
                        return Ok(true);
                    }
                }
            }
            // A request that is refused is answered like one that is done: each has exactly one answer.
            Ok(acknowledged + failures.len() >= requests.len())
        });
        if let Err(error) = outcome {
            failures.push((0, error));
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Sends all of `requests` with one call, and gathers one answer for each.
    fn acknowledged(&mut self, requests: &[Request]) -> Result<Vec<Result<()>>> {
        let last = self.send(requests, NLM_F_REQUEST | NLM_F_ACK)?;
        let first = last.wrapping_sub(requests.len() as u32 - 1);
        let mut results: Vec<Option<Result<()>>> = requests.iter().map(|_| None).collect();
        let mut missing = requests.len();
        self.receive(|message| {
            let place = message.sequence.wrapping_sub(first) as usize;
            if message.kind == NLMSG_ERROR && place < results.len() && results[place].is_none() {
                results[place] = Some(acknowledgement(message));
                missing -= 1;
            }
            Ok(missing == 0)
        })?;
        Ok(results.into_iter().flatten().collect())
    }

    /// The sequence number of the last request sent.
    fn send(&mut self, requests: &[Request], flags: u16) -> Result<u32> {
        let mut bytes = Vec::new();
        for request in requests {
            self.encode(request, flags, &mut bytes);
        }
        self.send_bytes(&bytes)?;
        Ok(self.sequence)
    }

    fn encode(&mut self, request: &Request, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER + request.body.len()) as u32;
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&request.kind.to_ne_bytes());
        bytes.extend_from_slice(&(request.flags | flags).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&request.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        // The kernel refuses a message larger than the send buffer, which counts double what is set.
        if bytes.len() > 64 * 1024 && setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len() * 2)).is_err() {
            setsockopt(&self.socket, sockopt::SndBuf, &(bytes.len() * 2))?;
        }
        loop {
            let send = |()| {
                let bytes = [IoSlice::new(bytes)];
                Ok(sendmsg::<NetlinkAddr>(self.socket.as_raw_fd(), &bytes, &[], MsgFlags::empty(), None)?)
            };
            match fault::at("send").and_then(send) {
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::Malformed("the kernel took half a message")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands over messages until `each` says that it has all it wants.
    fn receive(&mut self, mut each: impl FnMut(&Incoming<'_>) -> Result<bool>) -> Result<()> {
        loop {
            let mut free = &mut self.buffer[..];
            let received = fault::at("receive").and_then(|()| self.socket.recv(&mut free, nix::libc::MSG_TRUNC));
            let length = match received {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = self.buffer.get(..length).ok_or(Error::Malformed("an answer longer than 256 KiB"))?;
            let mut finished = false;
            while let Some((message, after)) = split(rest)? {
                rest = after;
                // An error must not leave the rest of this datagram to be taken for the next answer.
                if message.kind != NLMSG_NOOP && !finished {
                    finished = each(&message)?;
                }
            }
            if finished {
                return Ok(());
            }
        }
    }
}

/// What reads a datagram here (see `replies`): its messages, and what each of them would say as an end.
pub(super) const READERS: Readers = &[|bytes| {
    let mut rest = bytes;
    while let Ok(Some((message, after))) = split(rest) {
        let _ = (acknowledgement(&message), done(&message));
        rest = after;
    }
}];

/// As many requests as fit one send.
fn window(requests: &[Request]) -> &[Request] {
    let mut bytes = 0;
    let fitting = requests
        .iter()
        .take(WINDOW)
        .take_while(|request| {
            bytes += HEADER + request.body.len();
            bytes <= WINDOW_BYTES
        })
        .count();
    &requests[..fitting.max(1)]
}

/// The first message in `bytes`, and what comes after it.
fn split(bytes: &[u8]) -> Result<Option<(Incoming<'_>, &[u8])>> {
    if bytes.len() < HEADER {
        return Ok(None);
    }
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let length = word(0) as usize;
    if length < HEADER || length > bytes.len() {
        return Err(Error::Malformed("a message with a wrong length"));
    }
    let message = Incoming { kind: half(4), flags: half(6), sequence: word(8), body: &bytes[HEADER..length] };
    Ok(Some((message, &bytes[length.next_multiple_of(4).min(bytes.len())..])))
}

/// What an NLMSG_ERROR says: success, or why not.
fn acknowledgement(message: &Incoming<'_>) -> Result<()> {
    let code =
        message.body.get(..4).and_then(attribute::u32_of).ok_or(Error::Malformed("a short acknowledgement"))? as i32;
    if code == 0 {
        return Ok(());
    }
    // The request's header comes after the code, its body too unless capped, then the explanation.
    let echoed = if message.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        let length = message.body.get(4..8).and_then(attribute::u32_of).unwrap_or(HEADER as u32);
        (length as usize).next_multiple_of(4)
    };
    let explained = message.flags & NLM_F_ACK_TLVS != 0;
    Err(refusal(code, message.body.get(4 + echoed..).filter(|_| explained)))
}

/// What an NLMSG_DONE says: a dump can fail at its end.
fn done(message: &Incoming<'_>) -> Result<()> {
    match message.body.get(..4).and_then(attribute::u32_of).map(|code| code as i32) {
        Some(code) if code < 0 => Err(refusal(code, message.body.get(4..))),
        _ => Ok(()),
    }
}

fn refusal(code: i32, explanation: Option<&[u8]>) -> Error {
    let reason = explanation
        .and_then(|attributes| attribute::find(attributes, NLMSGERR_ATTR_MSG))
        .and_then(attribute::string_of);
    Error::Refused { errno: Errno::from_raw(code.wrapping_neg()), reason }
}
