//! What a session does: one function for each kind of step, chosen at random.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::session::DATABASES;
use crate::session::Session;
use crate::session::Stop;
use crate::session::Want;
use crate::session::brief;
use crate::session::confirmation;
use crate::session::frame;
use crate::session::text;
use crate::store::Change;
use crate::store::Op;
use crate::store::bulk;
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

    async fn step(&mut self) -> Result<(), Stop> {
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

    async fn end(&mut self) -> Result<(), Stop> {
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
    fn key(&mut self, letter: char) -> String {
        let letter = if self.random.percent(6) {
            *self.random.pick(&['t', 'h', 'l', 'z', 'x'])
        } else {
            letter
        };
        format!("{}{letter}{}", self.prefix, self.random.below(3))
    }

    /// A key for one use, of which nobody else's commands know.
    fn fresh_key(&mut self, letter: char) -> String {
        let nonce = self.nonce();
        format!("{}{letter}{nonce}", self.prefix)
    }

    fn value(&mut self) -> Bytes {
        let nonce = self.nonce();
        match self.random.below(10) {
            // Data that looks like protocol is data.
            0 => format!("{nonce}\r\n+INJ\r\n$-1\r\n*1\r\n").into(),
            1 => filled(&nonce, 3000),
            _ => nonce.into(),
        }
    }

    /// Short enough for Redis to keep a hash in order.
    fn short_value(&mut self) -> Bytes {
        self.nonce().into()
    }

    fn op(&mut self) -> Op {
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

    fn simple(&mut self) {
        let op = self.op();
        self.ask_op(op);
    }

    fn ask_op(&mut self, op: Op) {
        let db = self.state.db;
        let want = Want::Is(self.store.apply(db, &op, self.state.resp3));
        let blocks = op.blocks();
        let words = op.words();
        let change = op.writes().then(|| Change::of(db, op));
        self.ask_for(&words, want, change, blocks);
    }

    async fn simple_ones(&mut self, count: std::ops::Range<usize>) -> Result<(), Stop> {
        for _ in 0..self.random.within(count) {
            self.simple();
            if self.random.percent(4) {
                self.flush().await?;
            }
        }
        self.maybe_flush().await
    }

    /// Across the bounds of what travels with others.
    async fn big_value(&mut self) -> Result<(), Stop> {
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

    async fn refused(&mut self) -> Result<(), Stop> {
        for _ in 0..self.random.within(1..4) {
            self.refuse();
            if self.random.percent(50) {
                self.simple();
            }
        }
        self.maybe_flush().await
    }

    fn refuse(&mut self) {
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

    async fn scan(&mut self) -> Result<(), Stop> {
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
    async fn transaction(&mut self, conflict: bool) -> Result<(), Stop> {
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

    async fn watch(&mut self) -> Result<(), Stop> {
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
    async fn change_elsewhere(&mut self, key: &str) -> Result<(), Stop> {
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

    // --- waiting and listening ---------------------------------------------------------------------------------

    /// BLPOP on a key that a partner fills; requests behind it wait as well.
    async fn block(&mut self) -> Result<(), Stop> {
        if self.random.percent(40) {
            self.ask_op(Op::BLPop(format!("{}none", self.prefix)));
            self.simple();
            return self.maybe_flush().await;
        }
        let key = self.fresh_key('q');
        let value = self.short_value();
        let mut peer = self.take_peer().await?;
        peer.select(self.state.db).await?;
        let popped = Value::Array(vec![bulk(&text(&key)), bulk(&value)]);
        self.ask_for(&["BLPOP", &key, "120"], Want::Is(popped), None, true);
        for _ in 0..self.random.below(5) {
            match self.random.percent(20) {
                true => self.refuse(),
                false => self.simple(),
            }
        }
        let pause = Duration::from_millis(self.random.below(4) as u64);
        let pushing = async {
            tokio::time::sleep(pause).await;
            peer.call(&[b"RPUSH", key.as_bytes(), &value], &Value::Integer(1))
                .await
        };
        self.flush_beside(pushing).await?;
        self.peer = Some(peer);
        Ok(())
    }

    fn subscribe(&mut self) {
        let resp3 = self.state.resp3;
        let channel = format!("{}c{}", self.prefix, self.random.below(100_000));
        if !self.state.channels.contains(&channel) {
            self.state.channels.push(channel.clone());
        }
        let count = self.state.subscriptions();
        self.ask(
            &["SUBSCRIBE", &channel, &channel],
            Want::Is(confirmation("subscribe", Some(&channel), count, resp3)),
        );
        self.ask_more(Want::Is(confirmation("subscribe", Some(&channel), count, resp3)));
        if self.random.percent(40) && self.state.patterns.is_empty() {
            let pattern = format!("{}c*", self.prefix);
            self.state.patterns.push(pattern.clone());
            self.ask(
                &["PSUBSCRIBE", &pattern],
                Want::Is(confirmation("psubscribe", Some(&pattern), count + 1, resp3)),
            );
        }
    }

    async fn listen(&mut self) -> Result<(), Stop> {
        if self.state.subscriptions() < 4 {
            self.subscribe();
        }
        self.flush().await?;
        let resp3 = self.state.resp3;
        let mut peer = self.take_peer().await?;
        let mut published = Vec::new();
        for _ in 0..self.random.within(1..8) {
            let channel = self.random.pick(&self.state.channels.clone()).clone();
            let nonce = self.nonce();
            let payload = match self.random.below(5) {
                0 => {
                    let size = self.random.within(10_000..600_000);
                    filled(&nonce, size)
                }
                1 => filled(&nonce, 2000),
                _ => nonce.into(),
            };
            let (word, name, data) = (|word| bulk(&text(word)), bulk(&text(&channel)), bulk(&payload));
            self.pushes
                .push_back(frame(vec![word("message"), name.clone(), data.clone()], resp3));
            for pattern in &self.state.patterns {
                let pattern = bulk(&text(pattern));
                self.pushes.push_back(frame(
                    vec![word("pmessage"), pattern, name.clone(), data.clone()],
                    resp3,
                ));
            }
            published.push((channel, payload));
        }
        let receivers = Value::Integer(1 + self.state.patterns.len() as i64);
        let requests: Vec<Vec<&[u8]>> = published
            .iter()
            .map(|(channel, payload)| vec![&b"PUBLISH"[..], channel.as_bytes(), payload])
            .collect();
        let publishing = async {
            peer.calls(&requests, &receivers).await?;
            Ok::<_, Stop>(peer)
        };
        let talking = self.talk_while_listening();
        let published = {
            tokio::pin!(publishing, talking);
            let (mut published, mut talked) = (None, false);
            while published.is_none() || !talked {
                tokio::select! {
                    result = &mut publishing, if published.is_none() => match result {
                        Err(Stop::Abandoned) => return Err(Stop::Abandoned),
                        // Whether nobody listened any more is for the listener to say.
                        result => published = Some(result),
                    },
                    result = &mut talking, if !talked => {
                        result?;
                        talked = true;
                    }
                }
            }
            published
        };
        self.peer = published.transpose()?;
        if !resp3 && self.random.percent(80) {
            return self.unsubscribe().await;
        }
        Ok(())
    }

    /// Requests between the messages: their replies, and answers of Keyward's own, come between frames.
    async fn talk_while_listening(&mut self) -> Result<(), Stop> {
        for _ in 0..self.random.within(1..6) {
            for _ in 0..self.random.within(1..5) {
                match self.random.percent(50) {
                    true => self.refuse(),
                    false if self.state.resp3 => self.simple(),
                    false => {
                        let nonce = self.short_value();
                        let pong = Value::Array(vec![bulk(&text("pong")), bulk(&nonce)]);
                        self.ask(&[&b"PING"[..], &nonce], Want::Is(pong));
                    }
                }
            }
            if !self.state.resp3 && self.random.percent(30) {
                let key = self.key('t');
                self.ask(&["GET", &key], Want::Error("ERR Can't execute 'get': only "));
            }
            self.flush_replies().await?;
        }
        self.flush().await
    }

    async fn unsubscribe(&mut self) -> Result<(), Stop> {
        let resp3 = self.state.resp3;
        if self.random.percent(15) {
            return self.reset().await;
        }
        let channels = std::mem::take(&mut self.state.channels);
        let patterns = self.state.patterns.len();
        if channels.len() == 1 && self.random.percent(50) {
            self.ask(
                &["UNSUBSCRIBE"],
                Want::Is(confirmation("unsubscribe", Some(&channels[0]), patterns, resp3)),
            );
        } else {
            let mut left = channels.len();
            let mut words = vec!["UNSUBSCRIBE"];
            words.extend(channels.iter().map(String::as_str));
            for (index, channel) in channels.iter().enumerate() {
                left -= 1;
                let want = Want::Is(confirmation("unsubscribe", Some(channel), left + patterns, resp3));
                match index {
                    0 => self.ask(&words, want),
                    _ => self.ask_more(want),
                }
            }
        }
        if let Some(pattern) = self.state.patterns.pop() {
            self.ask(
                &["PUNSUBSCRIBE", &pattern],
                Want::Is(confirmation("punsubscribe", Some(&pattern), 0, resp3)),
            );
        }
        if self.random.percent(20) {
            self.ask(
                &["UNSUBSCRIBE"],
                Want::Is(confirmation("unsubscribe", None, 0, resp3)),
            );
        }
        self.simple();
        self.maybe_flush().await
    }

    async fn track(&mut self) -> Result<(), Stop> {
        if !self.state.resp3 {
            return self.hello().await;
        }
        if !self.state.tracking {
            self.ask(&["CLIENT", "TRACKING", "ON", "NOLOOP"], Want::Is(ok()));
            self.state.tracking = true;
        }
        let key = self.fresh_key('k');
        self.ask_op(Op::Set(key.clone(), Bytes::from_static(b"cached")));
        self.ask_op(Op::Get(key.clone()));
        self.flush().await?;
        let invalid = vec![bulk(&text("invalidate")), Value::Array(vec![bulk(&text(&key))])];
        self.pushes.push_back(Value::Push(invalid));
        self.change_elsewhere(&key).await?;
        self.flush().await
    }

    // --- connection state --------------------------------------------------------------------------------------

    async fn select(&mut self) -> Result<(), Stop> {
        match self.random.below(10) {
            0 => self.ask(&["SELECT", "99"], Want::Error("ERR DB index is out of range")),
            1 => self.ask(&["SELECT", "01"], Want::Error("ERR ")),
            _ => {
                self.state.db = self.random.below(DATABASES as usize) as u32;
                let db = self.state.db.to_string();
                self.ask(&["SELECT", &db], Want::Is(ok()));
            }
        }
        self.simple();
        self.maybe_flush().await
    }

    async fn hello(&mut self) -> Result<(), Stop> {
        if self.state.tracking || self.state.listens() {
            return self.think().await;
        }
        match self.random.below(12) {
            0 => self.ask(&["HELLO", "4"], Want::Error("NOPROTO ")),
            1 => {
                let version = if self.state.resp3 { 3 } else { 2 };
                self.ask(&["HELLO"], Want::Hello(version));
            }
            2 => {
                let name = self.nonce();
                self.ask(&["HELLO", "3", "SETNAME", &name], Want::Hello(3));
                self.state.resp3 = true;
                self.state.name = Some(name);
            }
            _ => {
                self.state.resp3 = self.random.percent(50);
                let version = if self.state.resp3 { "3" } else { "2" };
                self.ask(
                    &["HELLO", version],
                    Want::Hello(if self.state.resp3 { 3 } else { 2 }),
                );
            }
        }
        self.simple();
        self.maybe_flush().await
    }

    async fn names(&mut self) -> Result<(), Stop> {
        for _ in 0..self.random.within(1..4) {
            match self.random.below(6) {
                0 | 1 => {
                    let name = self.nonce();
                    self.ask(&["CLIENT", "SETNAME", &name], Want::Is(ok()));
                    self.state.name = Some(name);
                }
                2 => self.ask(
                    &["CLIENT", "SETNAME", "a b"],
                    Want::Error("ERR Client names cannot contain"),
                ),
                3 => self.ask(&["CLIENT", "SETINFO", "LIB-NAME", "model"], Want::OkOrUnknown),
                4 => self.ask(&["CLIENT", "ID"], Want::Integer),
                _ => {
                    let name = match &self.state.name {
                        Some(name) => bulk(&text(name)),
                        None if self.state.resp3 => Value::Null,
                        None => Value::NilBulk,
                    };
                    self.ask(&["CLIENT", "GETNAME"], Want::Is(name));
                }
            }
        }
        self.maybe_flush().await
    }

    /// Logs in, as this user or with this version too.
    pub(crate) fn login(&mut self) {
        let (name, password) = self.world.users[self.state.user];
        match self.random.below(3) {
            0 => {
                self.state.resp3 = self.random.percent(60);
                let version = if self.state.resp3 { "3" } else { "2" };
                let want = Want::Hello(if self.state.resp3 { 3 } else { 2 });
                self.ask(&["HELLO", version, "AUTH", name, password], want);
            }
            _ => self.ask(&["AUTH", name, password], Want::Is(ok())),
        }
    }

    async fn auth(&mut self) -> Result<(), Stop> {
        if self.random.percent(15) && self.state.refused_logins < 3 {
            self.state.refused_logins += 1;
            self.ask(&["AUTH", "app", WRONG_PASSWORD], Want::Error("WRONGPASS "));
        } else {
            if self.random.percent(60) {
                self.state.user = self.random.below(self.world.users.len());
            }
            let (name, password) = self.world.users[self.state.user];
            self.ask(&["AUTH", name, password], Want::Is(ok()));
        }
        self.simple();
        self.maybe_flush().await
    }

    async fn reset(&mut self) -> Result<(), Stop> {
        self.ask(&["RESET"], Want::Is(Value::Simple("RESET".into())));
        let (user, refused_logins) = (
            self.random.below(self.world.users.len()),
            self.state.refused_logins,
        );
        self.state = crate::session::State {
            user,
            refused_logins,
            ..Default::default()
        };
        if self.random.percent(30) {
            let key = self.key('t');
            self.ask(&["GET", &key], Want::Error("NOAUTH "));
        }
        self.login();
        self.simple();
        self.maybe_flush().await
    }

    /// CLIENT REPLY, where the user may.
    async fn without_replies(&mut self) -> Result<(), Stop> {
        if self.world.users[self.state.user].0 != "quiet" || self.state.listens() {
            return self.simple_ones(1..5).await;
        }
        self.state.sticky = true;
        let db = self.state.db;
        let mut change = Change::default();
        let skip = self.random.percent(50);
        self.put(&["CLIENT", "REPLY", if skip { "SKIP" } else { "OFF" }]);
        for _ in 0..if skip { 1 } else { self.random.within(1..6) } {
            if self.random.percent(15) {
                self.put(&["FLUSHALL"]);
                continue;
            }
            let op = self.op();
            self.store.apply(db, &op, false);
            self.put(&op.words());
            change.ops.push((db, op));
        }
        let words = if skip {
            vec!["PING"]
        } else {
            vec!["CLIENT", "REPLY", "ON"]
        };
        let want = if skip { Value::Simple("PONG".into()) } else { ok() };
        self.ask_for(&words, Want::Is(want), Some(change), false);
        self.maybe_flush().await
    }

    // --- scripts -----------------------------------------------------------------------------------------------

    async fn script(&mut self) -> Result<(), Stop> {
        self.state.sticky = true;
        let nonce = self.nonce();
        match self.random.below(3) {
            0 => self.ask(
                &["EVAL", "return ARGV[1]", "0", &nonce],
                Want::Is(bulk(&text(&nonce))),
            ),
            1 => {
                let key = format!("{}e", self.prefix);
                let change = Change::of(self.state.db, Op::Set(key.clone(), text(&nonce)));
                self.store.replay(&change);
                let script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])";
                let want = Want::Is(bulk(&text(&nonce)));
                self.ask_for(&["EVAL", script, "1", &key, &nonce], want, Some(change), false);
            }
            _ => {
                let digest = "0123456789012345678901234567890123456789";
                self.ask(&["EVALSHA", digest, "0"], Want::Error("NOSCRIPT "));
            }
        }
        for _ in 0..self.random.below(6) {
            self.simple();
        }
        self.maybe_flush().await
    }

    /// A script that makes Redis send frames that nobody asked for (P-6). Only this session may notice, and it ends.
    async fn inject(&mut self) -> Result<(), Stop> {
        self.flush().await?;
        self.state.sticky = true;
        let scripts = [
            // Redis reads the escapes itself.
            "#!lua flags=\"a\\r\\n+INJ\"\nreturn 1",
            "#!lua flags=\"a\\r\\n$3\\r\\nINJ\\r\\n:7\\r\\n-ERR x\"\nreturn 1",
            "return redis.error_reply('A\\r\\n+INJ')",
            "error({err='A\\r\\n+INJ'})",
        ];
        let script = *self.random.pick(&scripts);
        let nonce = self.nonce();
        self.put(&["EVAL", script, "0"]);
        if self.random.percent(50) {
            // Whatever comes first, the reply to this must not be taken for another's.
            self.send_raw().await;
        }
        self.put(&["ECHO", &nonce]);
        self.world.tally.injections.add(1);
        self.send_raw().await;
        let first = self.frame().await;
        let second = self.frame().await;
        self.forget_waiting();
        if let (Ok(Value::Error(_)), Ok(Value::Bulk(echo))) = (&first, &second)
            && *echo == nonce.as_bytes()
        {
            // This Redis sent no frame too many.
            return Ok(());
        }
        // Ended already, or it must.
        if !matches!(second, Err(Stop::Gone(_))) {
            self.read_to_end().await?;
        }
        self.world.tally.poisoned.add(1);
        Err(Stop::Left)
    }

    // --- reading slowly ----------------------------------------------------------------------------------------

    /// Asks for megabytes and reads them in sips, asking on meanwhile.
    async fn read_slowly(&mut self) -> Result<(), Stop> {
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
fn filled(nonce: &str, size: usize) -> Bytes {
    nonce
        .bytes()
        .chain(*b"|\r\n")
        .cycle()
        .take(size.max(nonce.len()))
        .collect::<Vec<u8>>()
        .into()
}
