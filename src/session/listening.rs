//! What a client listens to, by name: after a reload its rules are asked about each again.

use std::collections::HashSet;

use crate::acl::SubKind;
use crate::resp::Args;

/// Names of channels and patterns, from the requests that were forwarded. May hold more than Redis has subscribed, never
/// less.
#[derive(Debug, Default)]
pub(super) struct Listening {
    channels: HashSet<Box<[u8]>>,
    patterns: HashSet<Box<[u8]>>,
    shards: HashSet<Box<[u8]>>,
    /// Bytes in all three.
    size: usize,
    /// There were more than are kept.
    more: bool,
}

impl Listening {
    /// SUBSCRIBE and its kin; `whole`: all names are in `args`.
    pub(super) fn add(&mut self, kind: SubKind, args: &Args<'_>, whole: bool) {
        self.more |= !whole;
        for name in args.iter().skip(1) {
            if self.size.saturating_add(name.len()) > MAX_NAMES {
                self.more = true;
                return;
            }
            if self.of_mut(kind).insert(name.into()) {
                self.size = self.size.saturating_add(name.len() + ENTRY);
            }
        }
    }

    /// UNSUBSCRIBE and its kin; without names: all of the kind.
    pub(super) fn remove(&mut self, kind: SubKind, args: &Args<'_>) {
        if args.announced() < 2 {
            let names = std::mem::take(self.of_mut(kind));
            let freed: usize = names.iter().map(|name| name.len() + ENTRY).sum();
            self.size = self.size.saturating_sub(freed);
            return;
        }
        for name in args.iter().skip(1) {
            if self.of_mut(kind).remove(name) {
                self.size = self.size.saturating_sub(name.len() + ENTRY);
            }
        }
    }

    /// The names of one kind; `None`: not all are known.
    pub(super) fn names(&self, kind: SubKind) -> Option<impl Iterator<Item = &[u8]>> {
        let names = match kind {
            SubKind::Channel => &self.channels,
            SubKind::Pattern => &self.patterns,
            SubKind::Shard => &self.shards,
        };
        (!self.more).then(|| names.iter().map(|name| &**name))
    }

    fn of_mut(&mut self, kind: SubKind) -> &mut HashSet<Box<[u8]>> {
        match kind {
            SubKind::Channel => &mut self.channels,
            SubKind::Pattern => &mut self.patterns,
            SubKind::Shard => &mut self.shards,
        }
    }
}

/// Bytes of names that are kept for a session; who listens to more is disconnected by a reload that limits its channels.
const MAX_NAMES: usize = 64 * 1024;

/// What an entry costs beside its bytes.
const ENTRY: usize = 32;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn request(listening: &mut Listening, line: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = BytesMut::new();
        crate::resp::encode::request(&mut bytes, &words);
        let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
        match words[0] {
            b"SUBSCRIBE" => listening.add(SubKind::Channel, &args, true),
            b"PSUBSCRIBE" => listening.add(SubKind::Pattern, &args, true),
            b"UNSUBSCRIBE" => listening.remove(SubKind::Channel, &args),
            _ => panic!("{line}"),
        }
    }

    fn names(listening: &Listening, kind: SubKind) -> Option<Vec<&[u8]>> {
        let mut names: Vec<_> = listening.names(kind)?.collect();
        names.sort_unstable();
        Some(names)
    }

    #[test]
    fn names_are_kept_by_kind_until_they_are_given_up() {
        let mut listening = Listening::default();
        request(&mut listening, "SUBSCRIBE a b a");
        request(&mut listening, "PSUBSCRIBE a");
        assert_eq!(names(&listening, SubKind::Channel).unwrap(), [b"a", b"b"]);
        request(&mut listening, "UNSUBSCRIBE a x");
        assert_eq!(names(&listening, SubKind::Channel).unwrap(), [b"b"]);
        request(&mut listening, "UNSUBSCRIBE");
        assert_eq!(names(&listening, SubKind::Channel).unwrap(), [] as [&[u8]; 0]);
        assert_eq!(names(&listening, SubKind::Pattern).unwrap(), [b"a"]);
        assert_eq!(listening.size, 1 + ENTRY);
    }

    #[test]
    fn what_is_beyond_the_bound_is_known_to_be_unknown() {
        let mut listening = Listening::default();
        let long = "x".repeat(MAX_NAMES);
        request(&mut listening, &format!("SUBSCRIBE a {long}"));
        assert_eq!(names(&listening, SubKind::Channel), None);
        assert!(listening.size <= MAX_NAMES);
    }
}
