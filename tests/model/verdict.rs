//! The end of a session: whether it may have ended so, and what Redis holds then.

use std::sync::Arc;

use crate::random::Random;
use crate::replies::brief;
use crate::session::Session;
use crate::session::Stop;
use crate::store::probes;
use crate::support::REDIS_PASSWORD;
use crate::support::client::Value;
use crate::support::request;
use crate::wire::connect;

impl Session {
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
    pub(crate) async fn verify(&mut self) -> Result<(), String> {
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
