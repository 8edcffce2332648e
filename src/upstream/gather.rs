//! Whether a batch of requests should wait a moment for more before it is written.
//!
//! Each write costs the proxy a system call and Redis a wake-up, a read and a write, however many requests are in it. When
//! many sessions are busy, a pause of a fraction of a millisecond brings many more requests into a batch than it holds;
//! nobody notices, because each of them waits far longer for its turn. When few are busy, or they are slow, a pause would
//! bring nothing but a delay. So it is made only where it is known to pay, is the longer the more sessions are busy, and is
//! given up for a while where it did not pay.

use std::time::Duration;

/// Below so many busy sessions no pause is made: their client would be waiting for them.
const MIN_CROWD: u32 = 32;

/// A pause grows by so much for each session above that, up to a limit. The kernel's timers add about 50 microseconds.
const PAUSE_PER_SESSION: Duration = Duration::from_nanos(400);
const MAX_PAUSE: Duration = Duration::from_micros(200);

/// A batch waits for no more if it holds requests of one in so many of the busy sessions: the others would wait for it.
const SHARE: u32 = 4;

/// Nor if it holds those of so many: what a write costs is then spread well enough.
const ENOUGH: usize = 64;

/// Requests over which the busy sessions are counted.
const SAMPLE: u32 = 1024;

/// A pause must have brought requests of so many sessions to have paid.
const GOOD_GAIN: usize = 4;

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
    /// Sleep for so long, let everybody else have a turn, then ask again.
    Pause(Duration),
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
    /// All that is to be done.
    Done,
    /// A pause was made when it held requests of so many sessions.
    Pause(usize),
}

impl Gather {
    /// What is to be done with a batch that holds requests of so many sessions, where so many are busy; asked until it is
    /// written.
    pub(super) fn next(&mut self, batch: usize, crowd: u32) -> Next {
        match std::mem::take(&mut self.step) {
            Step::Nothing if self.skip > 0 => self.skip = self.skip.saturating_sub(1),
            Step::Nothing if is_small(batch, crowd) => {
                self.step = Step::Turn;
                return Next::Turn;
            }
            Step::Turn if is_small(batch, crowd) => {
                self.step = Step::Pause(batch);
                return Next::Pause(pause(crowd));
            }
            Step::Nothing | Step::Turn | Step::Done => {}
            Step::Pause(before) => self.judge(batch.saturating_sub(before)),
        }
        Next::Write
    }

    /// The present batch leaves without a pause, or another one.
    pub(super) fn give_up(&mut self) {
        self.step = Step::Done;
    }

    fn judge(&mut self, gain: usize) {
        if gain >= GOOD_GAIN {
            self.penalty = 0;
            return;
        }
        self.penalty = self.penalty.saturating_mul(2).clamp(MIN_SKIPPED, MAX_SKIPPED);
        self.skip = self.penalty;
    }
}

fn is_small(batch: usize, crowd: u32) -> bool {
    crowd >= MIN_CROWD && batch < ENOUGH.min(usize::try_from(crowd / SHARE).unwrap_or(ENOUGH))
}

fn pause(crowd: u32) -> Duration {
    PAUSE_PER_SESSION
        .saturating_mul(crowd.saturating_sub(MIN_CROWD))
        .min(MAX_PAUSE)
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

    /// Asks as long as the batch is not written, with requests of so many sessions in it each time.
    fn ask(gather: &mut Gather, crowd: u32, batches: [usize; 3]) -> Vec<Next> {
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
    fn a_small_batch_of_a_crowd_waits_once() {
        let mut gather = Gather::default();
        let pause = Next::Pause(Duration::from_micros(40));
        for _ in 0..3 {
            assert_eq!(
                ask(&mut gather, 132, [3, 5, 12]),
                [Next::Turn, pause, Next::Write]
            );
        }
    }

    #[test]
    fn a_batch_that_is_given_up_leaves_and_the_next_waits_again() {
        let mut gather = Gather::default();
        gather.give_up();
        assert_eq!(gather.next(3, 500), Next::Write);
        assert_eq!(gather.next(3, 500), Next::Turn);
        gather.give_up();
        assert_eq!(gather.next(3, 500), Next::Write);
    }

    #[test]
    fn pauses_are_bounded() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(MIN_CROWD), Duration::ZERO);
        assert_eq!(pause(u32::MAX), MAX_PAUSE);
    }

    #[test]
    fn it_makes_no_pause_if_a_turn_brings_enough() {
        let mut gather = Gather::default();
        assert_eq!(ask(&mut gather, 1000, [3, ENOUGH, 0]), [Next::Turn, Next::Write]);
        assert_eq!(ask(&mut gather, 160, [3, 40, 0]), [Next::Turn, Next::Write]);
    }

    #[test]
    fn neither_a_large_batch_nor_one_of_a_small_crowd_waits() {
        let mut gather = Gather::default();
        assert_eq!(gather.next(ENOUGH, 10_000), Next::Write);
        assert_eq!(gather.next(1, MIN_CROWD - 1), Next::Write);
        assert_eq!(gather.next(40, 160), Next::Write, "a fourth of them wait already");
        assert_eq!(gather.next(39, 160), Next::Turn);
    }

    #[test]
    fn pauses_that_bring_nothing_become_rare() {
        let mut gather = Gather::default();
        let pauses = (0..100_000)
            .filter(|_| ask(&mut gather, 500, [2, 2, 2 + GOOD_GAIN - 1]).len() == 3)
            .count();
        assert!((10..40).contains(&pauses), "{pauses}");
    }

    #[test]
    fn one_that_pays_ends_that() {
        let mut gather = Gather::default();
        let mut tried = |gain: usize| {
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
