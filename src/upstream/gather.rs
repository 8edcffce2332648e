//! Whether a batch of requests should wait a moment for more before it is written.
//!
//! Each write costs the proxy a system call and Redis a wake-up, a read and a write, however many requests are in it. When
//! hundreds of sessions are busy, a pause of a tenth of a millisecond brings many more requests into a batch than it holds;
//! nobody notices, because each of them waits far longer for its turn. When few are busy, or they are slow, a pause would
//! bring nothing but a delay. So it is made only where it is known to pay, and given up for a while where it did not.

use std::time::Duration;

/// How long a pause is meant to be; the kernel's timers make it up to twice as long.
pub(super) const GATHER_TIME: Duration = Duration::from_micros(50);

/// So many sessions must have been busy of late.
const MIN_CROWD: u32 = 128;

/// A batch waits for no more if it holds a request of one in so many of them: the others would wait for it.
const SHARE: u32 = 16;

/// Nor if it holds so many: what a write costs is then spread well enough.
const ENOUGH: u64 = 32;

/// Requests over which the busy sessions are counted.
const SAMPLE: u32 = 1024;

/// A pause must have brought so many requests to have paid.
const GOOD_GAIN: u64 = 4;

/// So many batches leave at once after a pause that did not; doubled each time, up to a limit.
const MIN_SKIPPED: u32 = 16;
const MAX_SKIPPED: u32 = 4096;

/// How many sessions of a lane are busy.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// The sample's number; 0 is none's.
    sample: u64,
    requests: u32,
    sessions: u32,
    /// Sessions in the last whole sample.
    last: u32,
}

impl Crowd {
    /// A session sends something. `seen` is its own: the number of the last sample that it was in.
    pub(super) fn see(&mut self, seen: &mut u64) {
        if self.requests >= SAMPLE || self.sample == 0 {
            self.last = self.sessions;
            self.sample = self.sample.saturating_add(1);
            self.requests = 0;
            self.sessions = 0;
        }
        self.requests = self.requests.saturating_add(1);
        if *seen != self.sample {
            *seen = self.sample;
            self.sessions = self.sessions.saturating_add(1);
        }
    }

    /// So many different ones were among the last 1,024 that sent something.
    pub(super) fn size(&self) -> u32 {
        self.last
    }
}

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Write it.
    Write,
    /// Let everybody else have a turn, then ask again.
    Turn,
    /// Make a pause, let everybody else have a turn, then ask again.
    Pause,
}

/// When pauses are made.
#[derive(Debug, Default)]
pub(super) struct Gather {
    step: Step,
    /// Batches that leave at once.
    skip: u32,
    /// How many leave at once after the next pause that does not pay.
    penalty: u32,
}

/// What has been done for the present batch.
#[derive(Debug, Default)]
enum Step {
    #[default]
    Nothing,
    /// Those who had something to take, and perhaps to send, have had a turn: nobody waits for the pause but the batch.
    Turn,
    /// A pause was made when it held so many requests.
    Pause(u64),
}

impl Gather {
    /// What is to be done with a batch that holds so many requests; asked until it is written.
    pub(super) fn next(&mut self, batch: u64, crowd: u32) -> Next {
        match std::mem::take(&mut self.step) {
            Step::Nothing if self.skip > 0 => self.skip = self.skip.saturating_sub(1),
            Step::Nothing if is_small(batch, crowd) => {
                self.step = Step::Turn;
                return Next::Turn;
            }
            Step::Turn if is_small(batch, crowd) => {
                self.step = Step::Pause(batch);
                return Next::Pause;
            }
            Step::Nothing | Step::Turn => {}
            Step::Pause(before) => self.judge(batch.saturating_sub(before)),
        }
        Next::Write
    }

    fn judge(&mut self, gain: u64) {
        if gain >= GOOD_GAIN {
            self.penalty = 0;
            return;
        }
        self.penalty = self.penalty.saturating_mul(2).clamp(MIN_SKIPPED, MAX_SKIPPED);
        self.skip = self.penalty;
    }
}

fn is_small(batch: u64, crowd: u32) -> bool {
    crowd >= MIN_CROWD && batch < ENOUGH && batch < u64::from(crowd / SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_is_those_who_sent_something_of_late() {
        let mut crowd = Crowd::default();
        let mut seen = vec![0_u64; 300];
        for _ in 0..10 {
            for seen in &mut seen {
                crowd.see(seen);
            }
        }
        assert_eq!(crowd.size(), 300);
        // One that talks a lot is one all the same.
        for _ in 0..3 * SAMPLE {
            crowd.see(&mut seen[0]);
        }
        assert_eq!(crowd.size(), 1);
    }

    #[test]
    fn nothing_is_known_of_a_crowd_before_a_sample_is_whole() {
        let mut crowd = Crowd::default();
        for _ in 0..SAMPLE {
            crowd.see(&mut 0);
        }
        assert_eq!(crowd.size(), 0);
        crowd.see(&mut 0);
        assert_eq!(crowd.size(), SAMPLE);
    }

    /// Asks as long as the batch is not written, with so many requests in it each time.
    fn ask(gather: &mut Gather, crowd: u32, batches: [u64; 3]) -> Vec<Next> {
        let mut said = Vec::new();
        for batch in batches {
            said.push(gather.next(batch, crowd));
            if said.last() == Some(&Next::Write) {
                break;
            }
        }
        said
    }

    #[test]
    fn a_small_batch_of_a_large_crowd_waits_once() {
        let mut gather = Gather::default();
        for _ in 0..3 {
            assert_eq!(
                ask(&mut gather, 500, [3, 5, 12]),
                [Next::Turn, Next::Pause, Next::Write]
            );
        }
    }

    #[test]
    fn it_makes_no_pause_if_a_turn_brings_enough() {
        let mut gather = Gather::default();
        assert_eq!(ask(&mut gather, 1000, [3, ENOUGH, 0]), [Next::Turn, Next::Write]);
        assert_eq!(ask(&mut gather, 160, [3, 10, 0]), [Next::Turn, Next::Write]);
    }

    #[test]
    fn neither_a_large_batch_nor_one_of_a_small_crowd_waits() {
        let mut gather = Gather::default();
        assert_eq!(gather.next(ENOUGH, 10_000), Next::Write);
        assert_eq!(gather.next(1, MIN_CROWD - 1), Next::Write);
        assert_eq!(
            gather.next(10, 160),
            Next::Write,
            "a sixteenth of them wait already"
        );
        assert_eq!(gather.next(9, 160), Next::Turn);
    }

    #[test]
    fn pauses_that_bring_nothing_become_rare() {
        let mut gather = Gather::default();
        let pauses = (0..100_000)
            .filter(|_| ask(&mut gather, 500, [2, 2, 2 + GOOD_GAIN - 1]).contains(&Next::Pause))
            .count();
        assert!((10..40).contains(&pauses), "{pauses}");
    }

    #[test]
    fn one_that_pays_ends_that() {
        let mut gather = Gather::default();
        let mut tried = |gain: u64| {
            let mut skipped = 0_u32;
            while ask(&mut gather, 500, [2, 2, 2 + gain]).len() < 3 {
                skipped += 1;
            }
            skipped
        };
        assert_eq!(tried(0), 0);
        assert_eq!(tried(0), MIN_SKIPPED);
        assert_eq!(tried(GOOD_GAIN), 2 * MIN_SKIPPED);
        assert_eq!(tried(0), 0);
        assert_eq!(tried(0), MIN_SKIPPED);
    }
}
