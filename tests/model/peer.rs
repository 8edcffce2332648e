//! A session's partner: fills its lists, publishes to it, changes what it watches.

use std::sync::Arc;

use crate::World;
use crate::random::Random;
use crate::replies::brief;
use crate::session::Stop;
use crate::store::ok;
use crate::support::PATIENCE;
use crate::support::client::Value;
use crate::support::request;
use crate::wire::NoFrame;
use crate::wire::Reader;
use crate::wire::Writer;
use crate::wire::connect;

/// Another connection of the same program: what it does is over before its session goes on.
pub(crate) struct Peer {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) chaos: bool,
    pub(crate) db: u32,
}

impl Peer {
    pub(crate) async fn open(world: &Arc<World>, user: usize) -> Result<Self, Stop> {
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
