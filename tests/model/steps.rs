//! What a session does: one function for each kind of step, chosen at random.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::replies::Want;
use crate::replies::brief;
use crate::session::DATABASES;
use crate::session::Session;
use crate::session::Stop;
use crate::store::Change;
use crate::store::Op;
use crate::store::ok;
use crate::support::WRONG_PASSWORD;
use crate::support::client::Value;

impl Session {
    /// The whole life of a session.
    pub(crate) async fn run(&mut self, steps: usize) -> Stop {
        for _ in 0..steps {
            if let Err(stop) = self.step().await {
                return stop;
            }
        }
        match self.end().await {
            Ok(()) => Stop::Left,
            Err(stop) => stop,
        }
    }

    pub(crate) async fn step(&mut self) -> Result<(), Stop> {
        if self.state.listens() && !self.state.resp3 {
            // Little else is allowed there.
            return self.unsubscribe().await;
        }
        let weights = [
            400, 40, 90, 60, 50, 60, 60, 40, 50, 60, 40, 25, 15, 4, 12, 15, 4, 20, 30,
        ];
        match self.random.weighted(&weights) {
            0 => self.simple_ones(1..25).await,
            1 => self.big_value().await,
            2 => self.transaction(false).await,
            3 => self.watch().await,
            4 => self.block().await,
            5 => self.listen().await,
            6 => self.select().await,
            7 => self.hello().await,
            8 => self.names().await,
            9 => self.refused().await,
            10 => self.auth().await,
            11 => self.reset().await,
            12 => self.script().await,
            13 => self.inject().await,
            14 => self.track().await,
            15 => self.scan().await,
            16 => self.read_slowly().await,
            17 => self.without_replies().await,
            _ => self.think().await,
        }
    }

    pub(crate) async fn end(&mut self) -> Result<(), Stop> {
        match self.random.below(4) {
            // Little else is allowed there.
            1..4 if self.state.listens() && !self.state.resp3 => self.flush().await,
            0 => {
                self.flush().await?;
                self.ask(&["QUIT"], Want::Is(ok()));
                // Never carried out.
                let key = format!("{}after", self.prefix);
                self.put(&["SET", &key, "quit"]);
                self.touched.insert((self.state.db, key));
                self.flush().await?;
                match self.frame().await {
                    Err(Stop::Gone(false)) => Ok(()),
                    Ok(value) => Err(Stop::Fault(format!("behind QUIT: {}", brief(&value)))),
                    Err(stop) => Err(stop),
                }
            }
            1 => {
                for _ in 0..self.random.below(10) {
                    self.simple();
                }
                match self.end_half_closed().await {
                    Stop::Left => Ok(()),
                    stop => Err(stop),
                }
            }
            _ => self.flush().await,
        }
    }

    // --- plain commands ----------------------------------------------------------------------------------------

    /// One of a few keys, mostly of the type that its letter says.
    pub(crate) fn key(&mut self, letter: char) -> String {
        let letter = if self.random.percent(6) {
            *self.random.pick(&['t', 'h', 'l', 'z', 'x'])
        } else {
            letter
        };
        format!("{}{letter}{}", self.prefix, self.random.below(3))
    }

    /// A key for one use, of which nobody else's commands know.
    pub(crate) fn fresh_key(&mut self, letter: char) -> String {
        let nonce = self.nonce();
        format!("{}{letter}{nonce}", self.prefix)
    }

    pub(crate) fn value(&mut self) -> Bytes {
        let nonce = self.nonce();
        match self.random.below(10) {
            // Data that looks like protocol is data.
            0 => format!("{nonce}\r\n+INJ\r\n$-1\r\n*1\r\n").into(),
            1 => filled(&nonce, 3000),
            _ => nonce.into(),
        }
    }

    /// Short enough for Redis to keep a hash in order.
    pub(crate) fn short_value(&mut self) -> Bytes {
        self.nonce().into()
    }

    pub(crate) fn op(&mut self) -> Op {
        let weights = [
            12, 14, 5, 8, 3, 3, 3, 3, 5, 4, 6, 5, 3, 6, 4, 3, 5, 1, 4, 4, 3, 3, 2, 3, 1, 6, 5, 2,
        ];
        match self.random.weighted(&weights) {
            0 => Op::Set(self.key('t'), self.value()),
            1 => Op::Get(self.key('t')),
            2 => Op::Append(self.key('t'), self.short_value()),
            3 => Op::Incr(format!("{}n{}", self.prefix, self.random.below(2))),
            4 => Op::Strlen(self.key('t')),
            5 => {
                let letter = *self.random.pick(&['t', 'h', 'l', 'z', 'x']);
                Op::Del(self.key(letter))
            }
            6 => Op::Exists(self.key('t')),
            7 => Op::Type(self.key('l')),
            8 => Op::MGet((0..self.random.within(1..5)).map(|_| self.key('t')).collect()),
            9 => Op::MSet(
                (0..self.random.within(1..4))
                    .map(|_| (self.key('t'), self.short_value()))
                    .collect(),
            ),
            10 => Op::HSet(self.key('h'), self.random.below(5), self.short_value()),
            11 => Op::HGet(self.key('h'), self.random.below(5)),
            12 => Op::HGetAll(self.key('h')),
            13 => {
                let values = (0..self.random.within(1..4))
                    .map(|_| self.short_value())
                    .collect();
                Op::RPush(self.key('l'), values)
            }
            14 => Op::LPop(self.key('l')),
            15 => Op::LLen(self.key('l')),
            16 => Op::LRange(self.key('l')),
            17 => Op::BLPop(self.key('l')),
            18 => Op::ZAdd(
                self.key('z'),
                self.random.below(5),
                self.random.below(1000) as i64,
            ),
            19 => Op::ZScore(self.key('z'), self.random.below(5)),
            20 => Op::ZRange(self.key('z')),
            21 => {
                self.entries += 1;
                Op::XAdd(self.key('x'), self.entries, self.short_value())
            }
            22 => Op::XLen(self.key('x')),
            23 => Op::XRange(self.key('x')),
            24 => Op::XRead(self.key('x')),
            25 => Op::Echo(self.value()),
            26 => Op::Ping(Some(self.short_value())),
            _ => Op::Ping(None),
        }
    }

    pub(crate) fn simple(&mut self) {
        let op = self.op();
        self.ask_op(op);
    }

    pub(crate) fn ask_op(&mut self, op: Op) {
        let db = self.state.db;
        let want = Want::Is(self.store.apply(db, &op, self.state.resp3));
        let blocks = op.blocks();
        let words = op.words();
        let change = op.writes().then(|| Change::of(db, op));
        self.ask_for(&words, want, change, blocks);
    }

    pub(crate) async fn simple_ones(&mut self, count: std::ops::Range<usize>) -> Result<(), Stop> {
        for _ in 0..self.random.within(count) {
            self.simple();
            if self.random.percent(4) {
                self.flush().await?;
            }
        }
        self.maybe_flush().await
    }

    /// Across the bounds of what travels with others.
    pub(crate) async fn big_value(&mut self) -> Result<(), Stop> {
        let size = match self.random.below(12) {
            0..5 => self.random.within(16 * 1024 - 200..16 * 1024 + 200),
            5..9 => self.random.within(64 * 1024 - 200..64 * 1024 + 200),
            9 | 10 => self.random.within(100_000..400_000),
            _ => self.random.within(1 << 20..4 << 20),
        };
        let key = format!("{}b{}", self.prefix, self.random.below(2));
        let nonce = self.nonce();
        self.ask_op(Op::Set(key.clone(), filled(&nonce, size)));
        for _ in 0..self.random.below(4) {
            self.simple();
        }
        for _ in 0..self.random.within(1..3) {
            self.ask_op(Op::Get(key.clone()));
            if self.random.percent(50) {
                self.simple();
            }
        }
        if self.random.percent(60) {
            self.ask_op(Op::Del(key));
        }
        self.maybe_flush().await
    }

    pub(crate) async fn refused(&mut self) -> Result<(), Stop> {
        for _ in 0..self.random.within(1..4) {
            self.refuse();
            if self.random.percent(50) {
                self.simple();
            }
        }
        self.maybe_flush().await
    }

    pub(crate) fn refuse(&mut self) {
        let nonce = self.nonce();
        match self.random.below(7) {
            0 => self.ask(&["FLUSHALL"], Want::Error("NOPERM ")),
            1 => self.ask(&["keys", "*"], Want::Error("NOPERM ")),
            2 => self.ask(&["CONFIG", "GET", &nonce], Want::Error("NOPERM ")),
            3 => self.ask(&["CLIENT", "KILL", "TYPE", "normal"], Want::Error("NOPERM ")),
            4 => self.ask(&["FLUSHALLX", &nonce], Want::Quotes(nonce.clone())),
            5 => {
                // A refused request whose body is dropped.
                let body = filled(&nonce, 40_000);
                self.ask(
                    &[&b"RESTORE"[..], nonce.as_bytes(), b"0", &body],
                    Want::Error("NOPERM "),
                );
            }
            _ => self.ask(&["CONFIG", &nonce], Want::Error("")),
        }
    }

    pub(crate) async fn scan(&mut self) -> Result<(), Stop> {
        self.flush().await?;
        let pattern = format!("{}*", self.prefix);
        let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
        loop {
            self.ask(
                &["SCAN", &cursor, "MATCH", &pattern, "COUNT", "500"],
                Want::Caught,
            );
            self.flush().await?;
            let Some(Value::Array(items)) = self.caught.take() else {
                return Err(Stop::Fault("SCAN did not answer an array".into()));
            };
            let [Value::Bulk(next), Value::Array(keys)] = &items[..] else {
                return Err(Stop::Fault(format!("SCAN answered {items:?}")));
            };
            found.extend(keys.iter().map(|key| key.to_string()[1..].to_owned()));
            cursor = String::from_utf8_lossy(next).into_owned();
            if cursor == "0" {
                break;
            }
        }
        if found == self.store.names(self.state.db) {
            return Ok(());
        }
        let wanted = self.store.names(self.state.db);
        Err(Stop::Fault(format!("SCAN found {found:?} instead of {wanted:?}")))
    }

    // --- transactions ------------------------------------------------------------------------------------------

    /// `conflict`: a watched key has changed.
    pub(crate) async fn transaction(&mut self, conflict: bool) -> Result<(), Stop> {
        let queued = || Want::Is(Value::Simple("QUEUED".into()));
        self.state.multi = true;
        self.ask(&["MULTI"], Want::Is(ok()));
        let (mut dirty, mut db, mut ops) = (false, self.state.db, Vec::new());
        for _ in 0..self.random.below(8) {
            match self.random.below(60) {
                0 | 1 => {
                    self.refuse();
                    dirty = true;
                }
                2 => {
                    self.ask(
                        &["GET"],
                        Want::Error("ERR wrong number of arguments for 'get' command"),
                    );
                    dirty = true;
                }
                3 => {
                    self.ask(
                        &["AUTH", WRONG_PASSWORD],
                        Want::Error("ERR keyward: AUTH is not allowed inside MULTI"),
                    );
                    dirty = true;
                }
                4 => self.ask(&["MULTI"], Want::Error("ERR MULTI calls can not be nested")),
                5 => {
                    db = self.random.below(DATABASES as usize) as u32;
                    self.ask(&["SELECT", &db.to_string()], queued());
                    ops.push((db, Op::Select(db)));
                    self.state.sticky = true;
                }
                _ => {
                    let op = self.op();
                    self.ask(&op.words(), queued());
                    ops.push((db, op));
                }
            }
            self.maybe_flush().await?;
        }
        if self.random.percent(12) {
            self.ask(&["DISCARD"], Want::Is(ok()));
        } else if dirty {
            let abort = "EXECABORT Transaction discarded because of previous errors.";
            self.ask(&["EXEC"], Want::Is(Value::Error(abort.into())));
        } else if conflict {
            let nil = if self.state.resp3 {
                Value::Null
            } else {
                Value::NilArray
            };
            self.ask(&["EXEC"], Want::Is(nil));
        } else {
            let resp3 = self.state.resp3;
            let replies = ops
                .iter()
                .map(|(db, op)| self.store.apply(*db, op, resp3))
                .collect();
            let change = Change { ops, atomic: true };
            self.ask_for(&["EXEC"], Want::Is(Value::Array(replies)), Some(change), false);
            self.state.db = db;
        }
        // As far as this client can tell; until the reply it is bound by what is in flight.
        self.state.multi = false;
        self.state.watching = false;
        self.maybe_flush().await
    }

    pub(crate) async fn watch(&mut self) -> Result<(), Stop> {
        let key = self.fresh_key('w');
        self.state.watching = true;
        if self.random.percent(50) {
            self.ask_op(Op::Set(key.clone(), Bytes::from_static(b"mine")));
        }
        self.ask(&["WATCH", &key], Want::Is(ok()));
        let mut watched = true;
        match self.random.below(6) {
            0 => self.ask(&["EXEC"], Want::Error("ERR EXEC without MULTI")),
            1 => self.ask(&["DISCARD"], Want::Error("ERR DISCARD without MULTI")),
            2 => {
                self.ask(&["UNWATCH"], Want::Is(ok()));
                self.state.watching = false;
                watched = false;
            }
            _ => {}
        }
        for _ in 0..self.random.below(4) {
            self.simple();
        }
        let conflict = self.random.percent(50);
        if conflict {
            self.flush().await?;
            if self.random.percent(50) {
                self.ask_op(Op::Set(key.clone(), Bytes::from_static(b"mine again")));
                self.flush().await?;
            } else {
                self.change_elsewhere(&key).await?;
            }
        }
        match self.random.below(10) {
            // Left open for later steps; nobody else touches the key.
            0 if !conflict => self.maybe_flush().await,
            _ => self.transaction(conflict && watched).await,
        }
    }

    /// The partner sets a key in this session's database.
    pub(crate) async fn change_elsewhere(&mut self, key: &str) -> Result<(), Stop> {
        let db = self.state.db;
        let value = self.short_value();
        // Unless it is acknowledged, nobody knows whether it was done.
        self.touched.remove(&(db, key.to_owned()));
        let mut peer = self.take_peer().await?;
        peer.select(db).await?;
        peer.call(&[b"SET", key.as_bytes(), &value], &ok()).await?;
        self.peer = Some(peer);
        self.made_elsewhere(db, Op::Set(key.to_owned(), value));
        Ok(())
    }

    // --- reading slowly ----------------------------------------------------------------------------------------

    /// Asks for megabytes and reads them in sips, asking on meanwhile.
    pub(crate) async fn read_slowly(&mut self) -> Result<(), Stop> {
        self.flush().await?;
        let (size, times) = *self
            .random
            .pick(&[(9_000, 800), (60_000, 130), (300_000, 25), (3_000, 2000)]);
        let key = format!("{}s", self.prefix);
        let nonce = self.nonce();
        self.ask_op(Op::Set(key.clone(), filled(&nonce, size)));
        self.flush().await?;
        self.reader.pace = Some((self.random.within(4_000..16_000), Duration::from_millis(1)));
        self.world.tally.slow_reads.add(1);
        for _ in 0..times {
            self.ask_op(Op::Get(key.clone()));
            if self.random.percent(5) {
                self.ask_op(Op::Echo(nonce.clone().into()));
            }
        }
        let result = self.flush().await;
        self.reader.pace = None;
        result
    }
}

/// A value of this size that says whose it is from its beginning to its end.
pub(crate) fn filled(nonce: &str, size: usize) -> Bytes {
    nonce
        .bytes()
        .chain(*b"|\r\n")
        .cycle()
        .take(size.max(nonce.len()))
        .collect::<Vec<u8>>()
        .into()
}
