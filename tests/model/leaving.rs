//! Clients that go without a word: with FIN, with RST, half, in the middle of a request, with replies outstanding.

use std::time::Duration;
use std::time::Instant;

use crate::session::Session;
use crate::session::Stop;
use crate::session::Until;
use crate::support::PATIENCE;
use crate::support::client::Value;
use crate::wire::NoFrame;

impl Session {
    /// The client goes in the middle of anything: with FIN, with RST, or half, and then still reads.
    pub(crate) async fn leave(&mut self) -> Stop {
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

    /// Sends the last batch and closes its sending half: what was sent is still answered (S-15), unless the grace ends or a
    /// command blocks (S-14).
    pub(crate) async fn end_half_closed(&mut self) -> Stop {
        let bytes = std::mem::take(&mut self.out);
        let mut random = self.random.clone();
        self.note("half-closes with everything outstanding".into());
        self.world.tally.closes.add(1);
        // Whoever leaves no longer takes its time; the end must come within the patience for a single byte.
        self.reader.pace = None;
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
        let stop = ending.await;
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
}
