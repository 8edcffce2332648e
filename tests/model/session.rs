//! One client: what it sends, what must come back, and what it may find when its connection is over.
//!
//! A session sends requests in batches of random depth, cut into random pieces. For each it knows the one right reply
//! before it sends it. It keeps two stores: what Redis holds when all that was sent has been carried out, and what
//! has been acknowledged. When the connection ends early, Redis must hold the acknowledged store and a prefix of what was
//! still in flight: nothing lost, nothing twice, nothing out of order.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::World;
use crate::peer::Peer;
use crate::random::Random;
use crate::replies::Inbox;
use crate::replies::Sent;
use crate::replies::Want;
use crate::replies::brief;
use crate::replies::short;
use crate::store::Change;
use crate::store::Op;
use crate::store::Store;
use crate::support::PATIENCE;
use crate::support::client::Value;
use crate::support::request;
use crate::wire::NoFrame;
use crate::wire::Reader;
use crate::wire::Writer;
use crate::wire::connect;

/// Databases in use.
pub(crate) const DATABASES: u32 = 4;

pub(crate) struct Session {
    pub(crate) world: Arc<World>,
    pub(crate) random: Random,
    pub(crate) index: usize,
    /// What its keys begin with.
    pub(crate) prefix: String,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// Requests that have not been written yet.
    pub(crate) out: Vec<u8>,
    /// Requests without a reply, in order.
    pub(crate) waiting: VecDeque<Sent>,
    /// Messages that must come by themselves, in order.
    pub(crate) pushes: VecDeque<Value>,
    pub(crate) state: State,
    /// Redis's when everything sent has been carried out.
    pub(crate) store: Store,
    /// Redis's as far as replies have told.
    pub(crate) acknowledged: Store,
    pub(crate) touched: BTreeSet<(u32, String)>,
    /// A reply that was wanted for its content.
    pub(crate) caught: Option<Value>,
    /// Requests until the client goes without a word.
    pub(crate) fuse: Option<usize>,
    pub(crate) nonces: u64,
    /// Identifiers of stream entries.
    pub(crate) entries: u64,
    pub(crate) trace: VecDeque<String>,
    pub(crate) peer: Option<Peer>,
}

/// What the client knows of its own connection.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    pub(crate) user: usize,
    pub(crate) db: u32,
    pub(crate) resp3: bool,
    pub(crate) name: Option<String>,
    pub(crate) channels: Vec<String>,
    pub(crate) patterns: Vec<String>,
    pub(crate) multi: bool,
    pub(crate) watching: bool,
    pub(crate) tracking: bool,
    /// Something that ties it to its connection to Redis for good.
    pub(crate) sticky: bool,
    /// It has run a script.
    pub(crate) scripted: bool,
    pub(crate) refused_logins: u32,
}

/// Why a session stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The connection ended; `true`: in the middle of a frame.
    Gone(bool),
    /// The client left.
    Left,
    /// A partner was lost, so the outcome of what it did is unknown.
    Abandoned,
    /// What must never be.
    Fault(String),
}

/// How far an exchange goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Every reply and every message has come.
    Quiet,
    /// Every reply has come.
    Answered,
    /// The same, after the client has closed its sending half.
    HalfClosed,
}

impl State {
    /// Redis holds something for it that no other connection can be given.
    pub(crate) fn is_bound(&self) -> bool {
        self.multi || self.watching || self.tracking || self.sticky || self.listens()
    }

    pub(crate) fn listens(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

impl Session {
    pub(crate) async fn open(world: &Arc<World>, index: usize) -> Result<Self, String> {
        let mut random = Random::fork(world.seed, index as u64);
        let (reader, writer) = connect(world.address)
            .await
            .map_err(|error| format!("no connection: {error}"))?;
        let fuse = random.percent(30).then(|| random.within(1..150));
        let mut session = Self {
            index,
            prefix: format!("s{index}:"),
            state: State {
                user: random.below(world.users.len()),
                ..State::default()
            },
            world: Arc::clone(world),
            random,
            reader,
            writer,
            out: Vec::new(),
            waiting: VecDeque::new(),
            pushes: VecDeque::new(),
            store: Store::default(),
            acknowledged: Store::default(),
            touched: BTreeSet::new(),
            caught: None,
            fuse,
            nonces: 0,
            entries: 0,
            trace: VecDeque::new(),
            peer: None,
        };
        session.login();
        Ok(session)
    }

    pub(crate) fn nonce(&mut self) -> String {
        self.nonces += 1;
        format!("{}{}.{:x}", self.prefix, self.nonces, self.random.next() >> 40)
    }

    /// Adds a request to the batch.
    pub(crate) fn ask<W: AsRef<[u8]>>(&mut self, words: &[W], want: Want) {
        self.ask_for(words, want, None, false);
    }

    /// The same with what it changes, which is in the store already.
    pub(crate) fn ask_for<W: AsRef<[u8]>>(
        &mut self,
        words: &[W],
        want: Want,
        change: Option<Change>,
        blocks: bool,
    ) {
        let what = self.put(words);
        if let Some(change) = &change {
            self.touch(change);
        }
        self.waiting.push_back(Sent {
            what,
            want,
            change,
            blocks,
        });
    }

    /// One more reply to the last request.
    pub(crate) fn ask_more(&mut self, want: Want) {
        self.waiting.push_back(Sent {
            what: "and".into(),
            want,
            change: None,
            blocks: false,
        });
    }

    /// Adds a request that brings no reply; what it changes belongs to a later request.
    pub(crate) fn put<W: AsRef<[u8]>>(&mut self, words: &[W]) -> String {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        self.out.extend(request(&words));
        self.world.tally.commands.add(1);
        if let Some(left) = &mut self.fuse {
            *left = left.saturating_sub(1);
        }
        let what: Vec<String> = words.iter().map(|word| short(word)).collect();
        let what = what.join(" ");
        self.note(format!("> {what}"));
        what
    }

    pub(crate) fn touch(&mut self, change: &Change) {
        for (db, op) in &change.ops {
            for key in op.written() {
                self.touched.insert((*db, key.to_owned()));
            }
        }
    }

    /// A change that another connection has made and had acknowledged.
    pub(crate) fn made_elsewhere(&mut self, db: u32, op: Op) {
        let change = Change::of(db, op);
        self.touch(&change);
        self.store.replay(&change);
        self.acknowledged.replay(&change);
    }

    pub(crate) fn note(&mut self, line: String) {
        if self.trace.len() == 60 {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Whether the client is about to leave without a word.
    pub(crate) fn is_cut(&self) -> bool {
        self.fuse == Some(0)
    }

    /// Sends the batch now and then, and always when it has grown large.
    pub(crate) async fn maybe_flush(&mut self) -> Result<(), Stop> {
        if self.is_cut() || self.waiting.len() > 300 || self.out.len() > 4 << 20 || self.random.percent(20) {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the batch and waits for every reply and message.
    pub(crate) async fn flush(&mut self) -> Result<(), Stop> {
        self.flush_until(Until::Quiet).await
    }

    /// Sends the batch and waits for the replies; messages may be outstanding still.
    pub(crate) async fn flush_replies(&mut self) -> Result<(), Stop> {
        self.flush_until(Until::Answered).await
    }

    pub(crate) async fn flush_until(&mut self, until: Until) -> Result<(), Stop> {
        if self.is_cut() {
            return Err(self.leave().await);
        }
        let bytes = std::mem::take(&mut self.out);
        let mut random = self.random.clone();
        self.random.next();
        let began = Instant::now();
        let result = self.exchange(&bytes, &mut random, until).await;
        if self.reader.pace.is_none() {
            self.world.tally.slowest(began.elapsed());
        }
        result
    }

    pub(crate) async fn exchange(
        &mut self,
        bytes: &[u8],
        random: &mut Random,
        until: Until,
    ) -> Result<(), Stop> {
        let Self {
            reader,
            writer,
            waiting,
            pushes,
            acknowledged,
            caught,
            world,
            trace,
            ..
        } = self;
        let mut inbox = Inbox {
            waiting,
            pushes,
            acknowledged,
            caught,
            world,
            trace,
        };
        let trickling = reader.pace.is_some();
        let writing = async {
            writer.write(bytes, random, trickling).await;
            if until == Until::HalfClosed {
                writer.finish().await;
            }
        };
        let reading = async {
            while !inbox.waiting.is_empty() || until == Until::Quiet && !inbox.pushes.is_empty() {
                let frame = reader.frame().await?;
                inbox.settle(frame)?;
            }
            Ok(())
        };
        tokio::pin!(writing, reading);
        let mut written = false;
        loop {
            tokio::select! {
                biased;
                result = &mut reading => {
                    if result.is_ok() && !written {
                        writing.await;
                    }
                    return result;
                }
                () = &mut writing, if !written => written = true,
            }
        }
    }

    pub(crate) async fn settle_next(&mut self) -> Result<(), Stop> {
        let frame = self.reader.frame().await?;
        Inbox {
            waiting: &mut self.waiting,
            pushes: &mut self.pushes,
            acknowledged: &mut self.acknowledged,
            caught: &mut self.caught,
            world: &self.world,
            trace: &mut self.trace,
        }
        .settle(frame)
    }

    /// Nothing is asked for; the connection must stay as it is.
    pub(crate) async fn think(&mut self) -> Result<(), Stop> {
        self.flush().await?;
        let pause = Duration::from_millis(self.random.below(60) as u64);
        match tokio::time::timeout(pause, self.reader.frame()).await {
            Err(_) => Ok(()),
            Ok(Ok(value)) => Err(Stop::Fault(format!("unasked: {}", brief(&value)))),
            Ok(Err(end)) => Err(end.into()),
        }
    }

    pub(crate) async fn frame(&mut self) -> Result<Value, Stop> {
        tokio::time::timeout(PATIENCE, self.reader.frame())
            .await
            .map_err(|_| Stop::Fault("no frame".into()))?
            .map_err(Stop::from)
    }

    pub(crate) async fn send_raw(&mut self) {
        let bytes = std::mem::take(&mut self.out);
        let mut random = self.random.clone();
        self.writer.write(&bytes, &mut random, false).await;
    }

    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// The partner, connected when it is first needed.
    pub(crate) async fn take_peer(&mut self) -> Result<Peer, Stop> {
        match self.peer.take() {
            Some(peer) => Ok(peer),
            None => {
                let user = self.random.below(self.world.users.len());
                Peer::open(&self.world, user).await
            }
        }
    }

    /// Flushes while the partner does something.
    pub(crate) async fn flush_beside<T>(
        &mut self,
        other: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        let flushing = self.flush();
        tokio::pin!(flushing, other);
        let (mut flushed, mut done) = (false, None);
        while !flushed || done.is_none() {
            tokio::select! {
                result = &mut flushing, if !flushed => {
                    result?;
                    flushed = true;
                }
                result = &mut other, if done.is_none() => done = Some(result?),
            }
        }
        Ok(done.unwrap())
    }
}

impl From<NoFrame> for Stop {
    fn from(end: NoFrame) -> Self {
        match end {
            NoFrame::Ended(partial) => Self::Gone(partial),
            NoFrame::Silent => Self::Fault(format!("not a byte within {PATIENCE:?}")),
            NoFrame::Malformed(what) => Self::Fault(format!("not RESP: {what}")),
        }
    }
}
