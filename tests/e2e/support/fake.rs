//! An upstream that does as it is told: for faults that no real Redis can be made to show.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Listens until dropped; every connection runs the script in a thread of its own.
pub(crate) struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicUsize,
    seen: Mutex<Vec<String>>,
}

/// What to do about one command.
pub(crate) enum Action {
    /// Write these bytes.
    Say(Vec<u8>),
    /// Write these bytes in pieces with a pause between them.
    Trickle(Vec<u8>, Duration),
    /// Write these bytes, then close.
    SayAndClose(Vec<u8>),
    /// Write this block again and again until the other side has closed.
    Flood(Vec<u8>),
    /// Close with RST after these bytes.
    SayAndReset(Vec<u8>),
    /// Do not answer, keep the connection.
    Silence,
}

impl Action {
    pub(crate) fn say(text: impl AsRef<[u8]>) -> Self {
        Self::Say(text.as_ref().to_vec())
    }

    /// What a healthy server says to the commands of the handshake and of the readiness check.
    pub(crate) fn healthy(command: &[String]) -> Option<Self> {
        match command[0].to_ascii_uppercase().as_str() {
            "AUTH" | "SELECT" | "CLIENT" | "QUIT" => Some(Self::say("+OK\r\n")),
            "PING" => Some(Self::say("+PONG\r\n")),
            _ => None,
        }
    }
}

impl Fake {
    /// `script` is asked about every command of every connection.
    pub(crate) fn start(script: impl Fn(&[String]) -> Action + Send + Sync + 'static) -> Self {
        Self::start_with_greeting(None, script)
    }

    /// Says something before it is asked, and closes if there is no script to follow (`None`).
    pub(crate) fn start_with_greeting(
        greeting: Option<Action>,
        script: impl Fn(&[String]) -> Action + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            seen: Mutex::new(Vec::new()),
        });
        let (script, greeting) = (Arc::new(script), Arc::new(greeting));
        let state = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.stop.load(Ordering::Acquire) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (state, script, greeting) =
                    (Arc::clone(&state), Arc::clone(&script), Arc::clone(&greeting));
                state.accepted.fetch_add(1, Ordering::AcqRel);
                state.open.fetch_add(1, Ordering::AcqRel);
                thread::spawn(move || {
                    let alive = greeting
                        .as_ref()
                        .as_ref()
                        .is_none_or(|action| perform(&stream, action, &state));
                    if alive {
                        converse(&stream, &state, &*script);
                    }
                    drop(stream);
                    state.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Every command received so far, words joined by blanks.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(mut stream: &TcpStream, state: &Shared, script: &dyn Fn(&[String]) -> Action) {
    let mut pending = Vec::new();
    let mut scratch = [0; 64 * 1024];
    loop {
        while let Some((command, length)) = parse(&pending) {
            pending.drain(..length);
            state.seen.lock().unwrap().push(command.join(" "));
            if !perform(stream, &script(&command), state) {
                return;
            }
        }
        match stream.read(&mut scratch) {
            Ok(0) | Err(_) => return,
            Ok(read) => pending.extend_from_slice(&scratch[..read]),
        }
    }
}

/// False when the conversation is over.
fn perform(mut stream: &TcpStream, action: &Action, state: &Shared) -> bool {
    match action {
        Action::Say(bytes) => stream.write_all(bytes).is_ok(),
        Action::SayAndClose(bytes) => {
            let _ = stream.write_all(bytes);
            false
        }
        Action::SayAndReset(bytes) => {
            let _ = stream.write_all(bytes);
            socket2::SockRef::from(stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            false
        }
        Action::Trickle(bytes, pause) => bytes.iter().all(|byte| {
            thread::park_timeout(*pause);
            !state.stop.load(Ordering::Acquire) && stream.write_all(&[*byte]).is_ok()
        }),
        Action::Flood(block) => {
            while !state.stop.load(Ordering::Acquire) && stream.write_all(block).is_ok() {
                std::hint::spin_loop()
            }
            false
        }
        Action::Silence => true,
    }
}

/// One canonical request from the front of the bytes, and its length.
fn parse(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let (count, mut at) = announced(bytes, 0, b'*')?;
    let mut args = Vec::new();
    for _ in 0..count {
        let (length, body) = announced(bytes, at, b'$')?;
        at = body + length + 2;
        if bytes.len() < at {
            return None;
        }
        args.push(String::from_utf8_lossy(&bytes[body..body + length]).into_owned());
    }
    Some((args, at))
}

/// A count or length line at `at`: its number and where the line ends.
fn announced(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(
        rest[0],
        kind,
        "not a canonical request: {:?}",
        String::from_utf8_lossy(bytes)
    );
    let number = std::str::from_utf8(&rest[1..end]).unwrap().parse().unwrap();
    Some((number, at + end + 2))
}
