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

use bytes::Bytes;

use crate::World;
use crate::random::Random;
use crate::store::Change;
use crate::store::Op;
use crate::store::Store;
use crate::store::bulk;
use crate::store::ok;
use crate::store::probes;
use crate::support::PATIENCE;
use crate::support::REDIS_PASSWORD;
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
    /// What its keys begin with.
    pub(crate) prefix: String,
    pub(crate) reader: Reader,
    writer: Writer,
    /// Requests that have not been written yet.
    out: Vec<u8>,
    /// Requests without a reply, in order.
    waiting: VecDeque<Sent>,
    /// Messages that must come by themselves, in order.
    pub(crate) pushes: VecDeque<Value>,
    pub(crate) state: State,
    /// Redis's when everything sent has been carried out.
    pub(crate) store: Store,
    /// Redis's as far as replies have told.
    acknowledged: Store,
    pub(crate) touched: BTreeSet<(u32, String)>,
    /// A reply that was wanted for its content.
    pub(crate) caught: Option<Value>,
    /// Requests until the client goes without a word.
    fuse: Option<usize>,
    nonces: u64,
    /// Identifiers of stream entries.
    pub(crate) entries: u64,
    trace: VecDeque<String>,
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
    pub(crate) refused_logins: u32,
}

struct Sent {
    what: String,
    want: Want,
    change: Option<Change>,
    blocks: bool,
}

/// What a reply must be.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    Is(Value),
    /// An error that begins so.
    Error(&'static str),
    /// An unknown command's error, which must quote this.
    Quotes(String),
    Integer,
    /// HELLO's, with this version.
    Hello(i64),
    /// `+OK`, or an error of a Redis that is older than the command.
    OkOrUnknown,
    /// Any, for [`Session::caught`].
    Caught,
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
enum Until {
    /// Every reply and every message has come.
    Quiet,
    /// Every reply has come.
    Answered,
    /// The same, after the client has closed its sending half.
    HalfClosed,
}

/// Another connection of the same program: what it does is over before its session goes on.
pub(crate) struct Peer {
    reader: Reader,
    writer: Writer,
    chaos: bool,
    pub(crate) db: u32,
}

impl Want {
    fn fits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Is(wanted), value) => wanted == value,
            (Self::Error(begin), Value::Error(text)) => text.starts_with(begin),
            (Self::Quotes(nonce), Value::Error(text)) => {
                text.starts_with("ERR unknown command") && text.contains(nonce)
            }
            (Self::Integer, Value::Integer(_)) | (Self::Caught, _) => true,
            (Self::Hello(version), Value::Map(pairs)) => {
                pairs.contains(&(Value::Bulk(b"proto".to_vec()), Value::Integer(*version)))
            }
            (Self::Hello(version), Value::Array(items)) => items
                .windows(2)
                .any(|pair| pair == [Value::Bulk(b"proto".to_vec()), Value::Integer(*version)]),
            (Self::OkOrUnknown, Value::Simple(text)) => text == "OK",
            (Self::OkOrUnknown, Value::Error(text)) => text.starts_with("ERR unknown subcommand"),
            _ => false,
        }
    }
}

impl State {
    /// Redis holds something for it that no other connection can be given.
    fn is_bound(&self) -> bool {
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

    fn touch(&mut self, change: &Change) {
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

    fn note(&mut self, line: String) {
        if self.trace.len() == 60 {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Whether the client is about to leave without a word.
    fn is_cut(&self) -> bool {
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

    async fn flush_until(&mut self, until: Until) -> Result<(), Stop> {
        if self.is_cut() {
            return Err(self.leave().await);
        }
        let bytes = std::mem::take(&mut self.out);
        let mut random = self.random.clone();
        self.random.next();
        let began = Instant::now();
        let result = tokio::time::timeout(PATIENCE, self.exchange(&bytes, &mut random, until)).await;
        if self.reader.pace.is_none() {
            self.world.tally.slowest(began.elapsed());
        }
        result.unwrap_or_else(|_| {
            let missing = self.waiting.front().map(|sent| sent.what.clone());
            Err(Stop::Fault(format!(
                "no reply within {PATIENCE:?}: {} replies and {} messages are missing, the first to {missing:?}",
                self.waiting.len(),
                self.pushes.len()
            )))
        })
    }

    async fn exchange(&mut self, bytes: &[u8], random: &mut Random, until: Until) -> Result<(), Stop> {
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

    async fn settle_next(&mut self) -> Result<(), Stop> {
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

    /// The client goes in the middle of anything: with FIN, with RST, or half, and then still reads.
    async fn leave(&mut self) -> Stop {
        if self.random.percent(35) {
            return self.end_half_closed().await;
        }
        let bytes = std::mem::take(&mut self.out);
        let length = match self.random.percent(40) {
            true => self.random.below(bytes.len() + 1),
            false => bytes.len(),
        };
        self.note(format!("leaves after {length} of {} bytes", bytes.len()));
        self.world.tally.closes.add(1);
        let mut random = self.random.clone();
        let aborts = self.random.percent(40);
        let leaving = async {
            // Whoever does not read cannot write without end.
            let limit = Duration::from_millis(random.below(30) as u64);
            let writing = self.writer.write(&bytes[..length], &mut random, false);
            let _ = tokio::time::timeout(limit, writing).await;
            for _ in 0..self.random.below(4) {
                if self.waiting.is_empty() {
                    break;
                }
                // What comes must be right, but nothing has to.
                let next = self.settle_next();
                if let Ok(Err(stop)) = tokio::time::timeout(Duration::from_millis(20), next).await {
                    return stop;
                }
            }
            if aborts {
                self.writer.abort();
            }
            Stop::Left
        };
        match tokio::time::timeout(PATIENCE, leaving).await {
            Ok(stop) => stop,
            Err(_) => Stop::Fault("a half-closed connection did not end".into()),
        }
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

    /// Sends the last batch and closes its sending half: what was sent is still answered (S-15), unless the grace ends or a
    /// command blocks (S-14).
    pub(crate) async fn end_half_closed(&mut self) -> Stop {
        let bytes = std::mem::take(&mut self.out);
        let mut random = self.random.clone();
        self.note("half-closes with everything outstanding".into());
        self.world.tally.closes.add(1);
        let began = Instant::now();
        let ending = async {
            if let Err(stop) = self.exchange(&bytes, &mut random, Until::HalfClosed).await {
                return stop;
            }
            // A listener may get messages still, but is not owed them.
            loop {
                if let Err(stop) = self.settle_next().await {
                    return stop;
                }
            }
        };
        let stop = match tokio::time::timeout(PATIENCE, ending).await {
            Ok(stop) => stop,
            Err(_) => Stop::Fault("a half-closed connection did not end".into()),
        };
        match stop {
            Stop::Gone(false) if self.waiting.is_empty() => Stop::Left,
            Stop::Gone(_)
                if self.waiting.iter().any(|sent| sent.blocks)
                    || began.elapsed() > Duration::from_secs(4) =>
            {
                Stop::Left
            }
            stop => stop,
        }
    }

    /// Everything that comes until the other side closes.
    pub(crate) async fn read_to_end(&mut self) -> Result<Vec<Value>, Stop> {
        let bytes = std::mem::take(&mut self.out);
        let mut random = self.random.clone();
        let reading = async {
            self.writer.write(&bytes, &mut random, false).await;
            let mut values = Vec::new();
            loop {
                match self.reader.frame().await {
                    Ok(value) => values.push(value),
                    Err(NoFrame::Ended(_)) => return Ok(values),
                    Err(end) => return Err(end.into()),
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .unwrap_or_else(|_| Err(Stop::Fault("the connection did not end".into())))
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

    /// Whether this end may be, and what Redis holds then.
    pub(crate) async fn conclude(mut self, stop: Stop) -> Result<(), String> {
        let world = Arc::clone(&self.world);
        let verdict = match stop {
            Stop::Left => Ok(()),
            Stop::Abandoned if world.has_chaos() => Ok(()),
            Stop::Abandoned => Err("a partner was lost".to_owned()),
            Stop::Gone(_) if !world.has_chaos() => Err("the connection ended".to_owned()),
            Stop::Gone(_) if self.waiting.is_empty() && !self.state.is_bound() => {
                Err("the connection ended although nothing was in flight or bound to it".to_owned())
            }
            Stop::Gone(_) => {
                world.tally.gone.add(1);
                Ok(())
            }
            Stop::Fault(fault) => Err(fault),
        };
        let verdict = match verdict {
            Ok(()) => self.verify().await,
            fault => fault,
        };
        verdict.map_err(|fault| {
            format!(
                "{fault}\n  {:?}\n  waiting: {:?}\n  the last of it:\n    {}",
                self.state,
                self.waiting
                    .iter()
                    .take(5)
                    .map(|sent| &sent.what)
                    .collect::<Vec<_>>(),
                self.trace
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join("\n    ")
            )
        })
    }

    /// Looks into Redis itself, past Keyward.
    async fn verify(&mut self) -> Result<(), String> {
        if self.touched.is_empty() {
            return Ok(());
        }
        let (mut reader, mut writer) = connect(self.world.redis).await.map_err(|e| e.to_string())?;
        let mut bytes = request(&[b"AUTH", REDIS_PASSWORD.as_bytes()]);
        bytes.extend(request(&[b"MULTI"]));
        let mut count = 2;
        for (db, key) in &self.touched {
            bytes.extend(request(&[b"SELECT", db.to_string().as_bytes()]));
            for op in probes(key) {
                let words = op.words();
                bytes.extend(request(&words.iter().map(|word| &word[..]).collect::<Vec<_>>()));
            }
            bytes.extend(request(&[b"UNLINK", key.as_bytes()]));
            count += 2 + probes(key).len();
        }
        bytes.extend(request(&[b"EXEC"]));
        writer.write(&bytes, &mut Random::new(1), false).await;
        for _ in 0..count {
            reader.frame().await.map_err(|end| format!("Redis: {end:?}"))?;
        }
        let Ok(Value::Array(mut found)) = reader.frame().await else {
            return Err("Redis did not carry the look out".into());
        };
        let each = 2 + probes("").len();
        let mut at = 0;
        found.retain(|_| {
            at += 1;
            at % each != 0
        });
        let mut store = self.acknowledged.clone();
        if store.look(&self.touched) == found {
            return Ok(());
        }
        for change in self.waiting.iter().filter_map(|sent| sent.change.as_ref()) {
            for (index, (db, op)) in change.ops.iter().enumerate() {
                store.apply(*db, op, false);
                let whole = !change.atomic || index + 1 == change.ops.len();
                if whole && store.look(&self.touched) == found {
                    return Ok(());
                }
            }
        }
        let wanted = self.acknowledged.look(&self.touched);
        let differences: Vec<String> = self
            .touched
            .iter()
            .enumerate()
            .flat_map(|(index, key)| (index * (each - 1)..(index + 1) * (each - 1)).map(move |at| (key, at)))
            .filter(|(_, at)| wanted.get(*at) != found.get(*at))
            .map(|(key, at)| {
                let text = |value: Option<&Value>| value.map_or_else(String::new, brief);
                format!(
                    "{key:?}: {} instead of {}",
                    text(found.get(at)),
                    text(wanted.get(at))
                )
            })
            .collect();
        Err(format!(
            "Redis holds neither what was acknowledged nor a prefix of what was in flight: {differences:#?}"
        ))
    }
}

/// What takes frames in.
struct Inbox<'a> {
    waiting: &'a mut VecDeque<Sent>,
    pushes: &'a mut VecDeque<Value>,
    acknowledged: &'a mut Store,
    caught: &'a mut Option<Value>,
    world: &'a World,
    trace: &'a mut VecDeque<String>,
}

impl Inbox<'_> {
    fn settle(&mut self, value: Value) -> Result<(), Stop> {
        if comes_unasked(&value) {
            return match self.pushes.pop_front() {
                Some(wanted) if wanted == value => {
                    self.world.tally.messages.add(1);
                    Ok(())
                }
                wanted => Err(Stop::Fault(format!(
                    "message {} instead of {}",
                    brief(&value),
                    wanted.as_ref().map_or_else(|| "none".into(), brief)
                ))),
            };
        }
        let Some(sent) = self.waiting.pop_front() else {
            return Err(Stop::Fault(format!(
                "a reply that nobody asked for: {}",
                brief(&value)
            )));
        };
        if !sent.want.fits(&value) {
            let fault = format!(
                "{}: {} instead of {}",
                sent.what,
                brief(&value),
                sent.want.brief()
            );
            self.waiting.push_front(sent);
            let said =
                matches!(&value, Value::Error(text) if FAREWELLS.iter().any(|begin| text.starts_with(begin)));
            if said && self.world.has_chaos() {
                self.trace.push_back(format!("< {}", brief(&value)));
                return Err(Stop::Gone(false));
            }
            return Err(Stop::Fault(fault));
        }
        if let Some(change) = &sent.change {
            self.acknowledged.replay(change);
        }
        if matches!(sent.want, Want::Caught) {
            *self.caught = Some(value);
        }
        self.world.tally.replies.add(1);
        Ok(())
    }
}

impl Want {
    fn brief(&self) -> String {
        match self {
            Self::Is(value) => brief(value),
            other => format!("{other:?}"),
        }
    }
}

impl Peer {
    async fn open(world: &Arc<World>, user: usize) -> Result<Self, Stop> {
        let (reader, writer) = connect(world.address)
            .await
            .map_err(|error| Stop::Fault(format!("no connection: {error}")))?;
        let mut peer = Self {
            reader,
            writer,
            chaos: world.has_chaos(),
            db: 0,
        };
        let (name, password) = world.users[user];
        peer.call(&[b"AUTH", name.as_bytes(), password.as_bytes()], &ok())
            .await?;
        Ok(peer)
    }

    pub(crate) async fn call(&mut self, words: &[&[u8]], wanted: &Value) -> Result<(), Stop> {
        self.calls(&[words.to_vec()], wanted).await
    }

    /// Pipelined requests that all bring the same reply.
    pub(crate) async fn calls(&mut self, requests: &[Vec<&[u8]>], wanted: &Value) -> Result<(), Stop> {
        let bytes: Vec<u8> = requests.iter().flat_map(|words| request(words)).collect();
        let calling = async {
            let mut random = Random::new(bytes.len() as u64);
            self.writer.write(&bytes, &mut random, false).await;
            for _ in requests {
                let value = match self.reader.frame().await {
                    Ok(value) => value,
                    Err(NoFrame::Ended(_)) if self.chaos => return Err(Stop::Abandoned),
                    Err(end) => return Err(Stop::Fault(format!("the partner: {end:?}"))),
                };
                if value != *wanted {
                    // In chaos the listener may have been lost, and the partner's own lane.
                    if self.chaos {
                        return Err(Stop::Abandoned);
                    }
                    return Err(Stop::Fault(format!(
                        "the partner got {} instead of {}",
                        brief(&value),
                        brief(wanted)
                    )));
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, calling)
            .await
            .unwrap_or_else(|_| Err(Stop::Fault("the partner got no reply".into())))
    }

    pub(crate) async fn select(&mut self, db: u32) -> Result<(), Stop> {
        if self.db != db {
            self.db = db;
            self.call(&[b"SELECT", db.to_string().as_bytes()], &ok()).await?;
        }
        Ok(())
    }
}

impl From<NoFrame> for Stop {
    fn from(end: NoFrame) -> Self {
        match end {
            NoFrame::Ended(partial) => Self::Gone(partial),
            NoFrame::Malformed(what) => Self::Fault(format!("not RESP: {what}")),
        }
    }
}

/// Messages and invalidations; confirmations are replies.
fn comes_unasked(value: &Value) -> bool {
    let (Value::Push(items) | Value::Array(items)) = value else {
        return false;
    };
    match items.first() {
        Some(Value::Bulk(word)) => matches!(&word[..], b"message" | b"pmessage" | b"invalidate"),
        _ => false,
    }
}

fn short(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(&word[..word.len().min(40)])
        .escape_debug()
        .to_string();
    if word.len() > 40 {
        format!("{text}…{}", word.len())
    } else {
        text
    }
}

pub(crate) fn brief(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) if bytes.len() > 200 => format!("${}", short(bytes)),
        value => {
            let text: String = value.to_string().chars().take(300).collect();
            text.escape_debug().to_string()
        }
    }
}

pub(crate) fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn confirmation(kind: &str, name: Option<&str>, count: usize, resp3: bool) -> Value {
    let name = match name {
        Some(name) => bulk(&text(name)),
        None if resp3 => Value::Null,
        None => Value::NilBulk,
    };
    frame(vec![bulk(&text(kind)), name, Value::Integer(count as i64)], resp3)
}

/// A push, or the array that stands for one in RESP2.
pub(crate) fn frame(items: Vec<Value>, resp3: bool) -> Value {
    if resp3 {
        Value::Push(items)
    } else {
        Value::Array(items)
    }
}

/// What Keyward says before it closes a connection whose lane could not be had.
const FAREWELLS: &[&str] = &["LOADING keyward: ", "ERR keyward: upstream "];
