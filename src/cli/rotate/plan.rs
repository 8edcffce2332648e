//! What to do next, from what is found: the steps of changing the password that Keyward logs in to Redis with.
//!
//! There is no record of how far a rotation has come but the secret file and Redis itself: whoever finds two lines in the
//! file finds a rotation that has begun, line 1 being the new password and line 2 the old one. So it goes on after a crash
//! at any point, and a step that was done is not done again.
//!
//! The order is what keeps every login possible at every moment: the new password stands in the file before Redis knows
//! it, Redis knows it before anybody is made to rely on it, and the old one goes only when every Keyward has the new one.

/// What is known at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// A new rotation may begin: it was asked for, and this run has neither begun nor finished one yet.
    pub(super) may_begin: bool,
    /// The secret file.
    pub(super) file: Lines,
    /// The Redis servers, in the order of the command line.
    pub(super) servers: Vec<Server>,
    /// A login with the new password has succeeded at each of them, in this run.
    pub(super) verified: bool,
    /// Every running Keyward has read the file as it is, in this run.
    pub(super) taken_over: bool,
}

/// Passwords in the secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// One: no rotation is under way.
    One,
    /// The new one above the old one.
    Two,
}

/// What one Redis server knows of the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// The password of the file's first line.
    pub(super) first: bool,
    /// The password of its second line.
    pub(super) second: bool,
    /// Passwords that stand in neither.
    pub(super) others: usize,
    /// It takes any password (`nopass`).
    pub(super) open: bool,
    /// It is `off`.
    pub(super) off: bool,
    /// `requirepass`, if it is the password of this user.
    pub(super) requirepass: Holds,
    /// `masterauth`, if it logs in to its master as this user.
    pub(super) masterauth: Holds,
    /// Whether it has written its users to its disk, in this run.
    pub(super) saved: Saved,
}

/// What a setting of Redis holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing that matters here.
    #[default]
    Nothing,
    /// The password of the first line.
    First,
    /// The password of the second line.
    Second,
}

/// Whether a server would know the new password after a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Saved {
    /// Not asked for yet.
    #[default]
    No,
    /// It has saved it, or the operator does.
    Yes,
    /// It cannot.
    Impossible,
}

/// One step. Numbers are those of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Make a password and write it above the old one.
    Write,
    /// Have Redis take it beside the old one.
    Add(usize),
    /// Log in with it everywhere.
    Verify,
    /// Wait until every Keyward has read the file.
    TakeOver,
    /// Have a server log in to its master with it.
    Masterauth(usize),
    /// Put it into `requirepass`, which takes the old one from Redis.
    Requirepass(usize),
    /// Take the old one from Redis.
    Drop(usize),
    /// Have Redis write it to its disk.
    Save(usize),
    /// Take the old one out of the file.
    Finish,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This.
    Step(Step),
    /// Nothing: all is done, or there was nothing to finish.
    Done,
    /// Nothing more: this server has the new password in memory alone, so the old one stays in the file.
    Unsaved(usize),
    /// It cannot go on.
    Stuck(Stuck),
}

/// Why it cannot go on; nothing has been changed by finding out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stuck {
    /// This server knows no password of the file.
    Unknown(usize),
    /// This server takes any password.
    Open(usize),
    /// The user is off there.
    Off(usize),
}

/// What comes next.
pub(super) fn next(facts: &Facts) -> Next {
    if facts.file == Lines::One && !facts.may_begin {
        return Next::Done;
    }
    if let Some(stuck) = find_stuck(facts) {
        return Next::Stuck(stuck);
    }
    if facts.file == Lines::One {
        return Next::Step(Step::Write);
    }
    let position = |wanted: &dyn Fn(&Server) -> bool| facts.servers.iter().position(wanted);
    if let Some(server) = position(&|server| !server.first) {
        return Next::Step(Step::Add(server));
    }
    if !facts.verified {
        return Next::Step(Step::Verify);
    }
    if !facts.taken_over {
        return Next::Step(Step::TakeOver);
    }
    // Before any master forgets the old one.
    if let Some(server) = position(&|server| server.masterauth == Holds::Second) {
        return Next::Step(Step::Masterauth(server));
    }
    if let Some(server) = position(&|server| server.second) {
        let found = facts.servers.get(server);
        // It would take the passwords of others away as well.
        let alone = found.is_some_and(|server| server.others == 0 && server.requirepass == Holds::Second);
        let step = if alone { Step::Requirepass } else { Step::Drop };
        return Next::Step(step(server));
    }
    if let Some(server) = position(&|server| server.saved == Saved::No) {
        return Next::Step(Step::Save(server));
    }
    match position(&|server| server.saved == Saved::Impossible) {
        Some(server) => Next::Unsaved(server),
        None => Next::Step(Step::Finish),
    }
}

fn find_stuck(facts: &Facts) -> Option<Stuck> {
    facts.servers.iter().enumerate().find_map(|(index, server)| {
        if server.open {
            return Some(Stuck::Open(index));
        }
        if server.off {
            return Some(Stuck::Off(index));
        }
        (!server.first && !server.second).then_some(Stuck::Unknown(index))
    })
}

impl Facts {
    /// What is to be expected after a step, for `--dry-run`.
    pub(super) fn after(mut self, step: Step) -> Self {
        match step {
            Step::Write => {
                self.may_begin = false;
                self.file = Lines::Two;
                for server in &mut self.servers {
                    let shift = |holds| match holds {
                        Holds::First => Holds::Second,
                        Holds::Second | Holds::Nothing => Holds::Nothing,
                    };
                    server.second = std::mem::take(&mut server.first);
                    server.requirepass = shift(server.requirepass);
                    server.masterauth = shift(server.masterauth);
                }
            }
            Step::Verify => self.verified = true,
            Step::TakeOver => self.taken_over = true,
            Step::Finish => {
                self.may_begin = false;
                self.file = Lines::One;
            }
            Step::Add(index)
            | Step::Masterauth(index)
            | Step::Requirepass(index)
            | Step::Drop(index)
            | Step::Save(index) => {
                if let Some(server) = self.servers.get_mut(index) {
                    server.do_step(step);
                }
            }
        }
        self
    }
}

impl Server {
    fn do_step(&mut self, step: Step) {
        match step {
            Step::Add(_) => self.first = true,
            Step::Masterauth(_) => self.masterauth = Holds::First,
            Step::Requirepass(_) => {
                self.requirepass = Holds::First;
                self.second = false;
            }
            Step::Drop(_) => self.second = false,
            Step::Save(_) => self.saved = Saved::Yes,
            Step::Write | Step::Verify | Step::TakeOver | Step::Finish => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            first: true,
            ..Server::default()
        }
    }

    fn facts(servers: &[Server]) -> Facts {
        Facts {
            may_begin: true,
            file: Lines::One,
            servers: servers.to_vec(),
            verified: false,
            taken_over: false,
        }
    }

    /// All steps to the end, with the facts before each.
    fn walk(mut facts: Facts) -> (Vec<(Facts, Step)>, Next) {
        let mut steps = Vec::new();
        loop {
            match next(&facts) {
                Next::Step(step) => {
                    steps.push((facts.clone(), step));
                    facts = facts.after(step);
                }
                end => return (steps, end),
            }
            assert!(steps.len() < 50, "it does not end");
        }
    }

    fn steps(facts: Facts) -> Vec<Step> {
        let (steps, end) = walk(facts);
        assert_eq!(end, Next::Done);
        steps.into_iter().map(|(_, step)| step).collect()
    }

    #[test]
    fn an_acl_user_and_requirepass_go_their_ways() {
        use Step::*;
        assert_eq!(
            steps(facts(&[server()])),
            [Write, Add(0), Verify, TakeOver, Drop(0), Save(0), Finish]
        );
        let default = Server {
            requirepass: Holds::First,
            masterauth: Holds::First,
            ..server()
        };
        assert_eq!(
            steps(facts(&[default.clone(), server()])),
            [
                Write,
                Add(0),
                Add(1),
                Verify,
                TakeOver,
                Masterauth(0),
                Requirepass(0),
                Drop(1),
                Save(0),
                Save(1),
                Finish
            ]
        );
        let shared = Server { others: 1, ..default };
        assert!(
            steps(facts(&[shared])).contains(&Drop(0)),
            "others keep their passwords"
        );
    }

    #[test]
    fn after_a_crash_at_any_point_the_rest_is_done_and_nothing_twice() {
        let default = Server {
            requirepass: Holds::First,
            masterauth: Holds::First,
            ..server()
        };
        let (all, _) = walk(facts(&[default, server()]));
        for cut in 0..=all.len() {
            let done: Vec<Step> = all[..cut].iter().map(|(_, step)| *step).collect();
            let mut found = all.get(cut).map_or_else(
                || all[cut - 1].0.clone().after(all[cut - 1].1),
                |(facts, _)| facts.clone(),
            );
            // What only the process knew is gone with it.
            (found.verified, found.taken_over, found.may_begin) = (false, false, cut < all.len());
            for server in &mut found.servers {
                server.saved = Saved::No;
            }
            let (rest, end) = walk(found);
            assert_eq!(end, Next::Done, "{cut}");
            for (_, step) in &rest {
                let again = matches!(step, Step::Verify | Step::TakeOver | Step::Save(_));
                assert!(again || !done.contains(step), "{cut}: {step:?} twice");
            }
            let together: Vec<Step> = done
                .iter()
                .chain(rest.iter().map(|(_, step)| step))
                .copied()
                .collect();
            for (_, step) in &all {
                assert!(together.contains(step), "{cut}: {step:?} is missing");
            }
        }
    }

    #[test]
    fn at_every_moment_whoever_has_read_the_file_can_log_in_everywhere() {
        let default = Server {
            requirepass: Holds::First,
            ..server()
        };
        let (all, _) = walk(facts(&[default, server()]));
        for (facts, step) in &all {
            let after = facts.clone().after(*step);
            for server in &after.servers {
                let second = after.file == Lines::Two && server.second;
                assert!(server.first || second, "after {step:?}");
            }
            // Who has not read the file needs the old one, which goes after it is known that there is none such.
            let old_goes = matches!(step, Step::Drop(_) | Step::Requirepass(_));
            assert!(!old_goes || (facts.taken_over && facts.verified), "{step:?}");
            assert!(facts.servers.iter().all(|server| server.first) || !old_goes);
        }
    }

    #[test]
    fn the_old_password_stays_in_the_file_of_a_redis_that_cannot_save() {
        let mut found = facts(&[server(), server()]);
        found.file = Lines::Two;
        (found.verified, found.taken_over) = (true, true);
        found.servers[1].saved = Saved::Impossible;
        let (steps, end) = walk(found);
        assert_eq!(end, Next::Unsaved(1));
        assert!(steps.iter().all(|(_, step)| *step != Step::Finish));
    }

    #[test]
    fn nothing_is_begun_where_it_could_not_end() {
        let (mut open, mut off, mut unknown) = (server(), server(), server());
        (open.open, off.off, unknown.first) = (true, true, false);
        for (server, stuck) in [
            (open, Stuck::Open(1)),
            (off, Stuck::Off(1)),
            (unknown, Stuck::Unknown(1)),
        ] {
            let found = facts(&[self::server(), server]);
            assert_eq!(next(&found), Next::Stuck(stuck));
            let finished = Facts {
                may_begin: false,
                ..found
            };
            assert_eq!(next(&finished), Next::Done);
        }
    }
}
