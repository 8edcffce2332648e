//! Steps that wait for others: blocking commands, subscriptions, tracking.

use std::time::Duration;

use bytes::Bytes;

use crate::replies::Want;
use crate::replies::confirmation;
use crate::replies::frame;
use crate::replies::text;
use crate::session::Session;
use crate::session::Stop;
use crate::steps::filled;
use crate::store::Op;
use crate::store::bulk;
use crate::store::ok;
use crate::support::client::Value;

impl Session {
    /// BLPOP on a key that a partner fills; requests behind it wait as well.
    pub(crate) async fn block(&mut self) -> Result<(), Stop> {
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

    pub(crate) fn subscribe(&mut self) {
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

    pub(crate) async fn listen(&mut self) -> Result<(), Stop> {
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
    pub(crate) async fn talk_while_listening(&mut self) -> Result<(), Stop> {
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

    pub(crate) async fn unsubscribe(&mut self) -> Result<(), Stop> {
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

    pub(crate) async fn track(&mut self) -> Result<(), Stop> {
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
}
