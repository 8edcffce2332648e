//! The log: one JSON object a line, or text for people, on standard error.
//!
//! Writing must never hold up a session: lines go through a bounded queue to a thread of their own. When the reader
//! of standard error is slow or gone, lines are dropped and counted, and the process goes on (F-24).

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{Log, LogFormat};
use crate::metrics::Metrics;

/// Sets the process's log up, once.
pub(super) fn init(log: &Log, metrics: &Arc<Metrics>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).context("the log filter cannot be read")?;
    let terminal = io::stderr().is_terminal();
    let human = match log.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let writer = Queue::start(Arc::clone(metrics))?;
    let lines = if human {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        tracing_subscriber::fmt::layer()
            .with_ansi(colour)
            .with_target(false)
            .with_writer(writer)
            .boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_target(true)
            .with_writer(writer)
            .boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(metrics.log_counter())
        .with(lines)
        .try_init()
        .context("the log was set up before")
}

/// Writes what is queued; the last thing before the process ends.
pub(super) fn finish() {
    let Some(queue) = QUEUE.get() else { return };
    let parts = queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Running { lines, thread }) = parts {
        // An empty line is the order to end: lines of the log always end in LF.
        let _ = lines.send(Vec::new());
        let _ = thread.join();
    }
}

/// The queue's end and its thread, for [`finish`]. The log is the process's own, and so is this.
static QUEUE: OnceLock<Mutex<Option<Running>>> = OnceLock::new();

/// The sending end of the queue, and the thread at the other.
struct Running {
    lines: SyncSender<Vec<u8>>,
    thread: JoinHandle<()>,
}

#[derive(Clone)]
struct Queue {
    lines: SyncSender<Vec<u8>>,
    metrics: Arc<Metrics>,
}

/// One line being put together.
struct Line<'a> {
    queue: &'a Queue,
    bytes: Vec<u8>,
}

impl Queue {
    fn start(metrics: Arc<Metrics>) -> io::Result<Self> {
        let (lines, queued) = mpsc::sync_channel::<Vec<u8>>(MAX_QUEUED);
        let thread = std::thread::Builder::new()
            .name("keyward-log".to_owned())
            .spawn(move || {
                let mut out = io::stderr();
                while let Ok(line) = queued.recv() {
                    if line.is_empty() {
                        return;
                    }
                    // A reader that is gone changes nothing for the sessions.
                    let _ = out.write_all(&line);
                }
            })?;
        let _ = QUEUE.set(Mutex::new(Some(Running {
            lines: lines.clone(),
            thread,
        })));
        Ok(Self { lines, metrics })
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            queue: self,
            bytes: Vec::new(),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        match self.queue.lines.try_send(std::mem::take(&mut self.bytes)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.queue.metrics.log_dropped.inc()
            }
        }
    }
}

/// Lines that may wait for standard error; about a megabyte.
const MAX_QUEUED: usize = 4096;
