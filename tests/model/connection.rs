//! Steps that change the connection: databases, versions, names, logins, replies that are off, scripts.

use std::time::Instant;

use crate::replies::Want;
use crate::replies::text;
use crate::session::DATABASES;
use crate::session::Session;
use crate::session::State;
use crate::session::Stop;
use crate::store::Change;
use crate::store::Op;
use crate::store::bulk;
use crate::store::ok;
use crate::support::WRONG_PASSWORD;
use crate::support::client::Value;

impl Session {
    pub(crate) async fn select(&mut self) -> Result<(), Stop> {
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

    pub(crate) async fn hello(&mut self) -> Result<(), Stop> {
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

    pub(crate) async fn names(&mut self) -> Result<(), Stop> {
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
                4 => self.ask_id(),
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

    pub(crate) async fn auth(&mut self) -> Result<(), Stop> {
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

    pub(crate) async fn reset(&mut self) -> Result<(), Stop> {
        self.ask(&["RESET"], Want::Is(Value::Simple("RESET".into())));
        let (user, refused_logins) = (
            self.random.below(self.world.users.len()),
            self.state.refused_logins,
        );
        self.state = State {
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
    pub(crate) async fn without_replies(&mut self) -> Result<(), Stop> {
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

    pub(crate) async fn script(&mut self) -> Result<(), Stop> {
        self.state.sticky = true;
        self.state.scripted = true;
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
        self.ask_id();
        for _ in 0..self.random.below(6) {
            self.simple();
        }
        self.maybe_flush().await
    }

    /// Whose script a connection has run, it belongs to for good (rule 3c).
    pub(crate) fn ask_id(&mut self) {
        let want = Want::Id {
            owner: self.index,
            scripted: self.state.scripted,
            asked: Instant::now(),
        };
        self.ask(&["CLIENT", "ID"], want);
    }

    /// A script that makes Redis send frames that nobody asked for (P-6). Only this session may notice, and it ends.
    pub(crate) async fn inject(&mut self) -> Result<(), Stop> {
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
}
