//! What the session answers itself, in Redis's words, and what it tells its caller to count.

use crate::acl::Denied;
use crate::resp::Args;

/// Something about a request that is worth counting or auditing.
#[derive(Debug)]
pub enum Note {
    /// The ACL refused it.
    Denied(Denied),
    /// The ACL would have refused it, but only observes.
    Observed(Denied),
    /// Not in the command table: refused as unknown.
    Unknown,
    /// The first command of a client that has not logged in.
    NoCredentials,
    /// AUTH or HELLO that makes no sense.
    Malformed,
}

/// A frame from upstream that nobody could attribute. Ends the session and its lane (rule 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surprise {
    /// A reply without a request (P-5).
    UnaskedReply,
    /// Not the reply that this request can bring.
    WrongReply,
    /// `-NOAUTH` on a live connection: our injected login is gone (P-8).
    SessionLost,
    /// A new connection refused the state of the old one.
    ReplayRefused,
}

impl Surprise {
    /// For logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnaskedReply => "unasked_reply",
            Self::WrongReply => "wrong_reply",
            Self::SessionLost => "session_lost",
            Self::ReplayRefused => "replay_refused",
        }
    }

    /// What the client is told before the close; `None`: nothing can be said in step any more.
    pub fn reply(self) -> Option<&'static str> {
        match self {
            Self::SessionLost => Some("ERR keyward: upstream session lost"),
            Self::ReplayRefused => Some("ERR keyward: upstream refused the state of this session"),
            Self::UnaskedReply | Self::WrongReply => None,
        }
    }
}

pub(super) fn arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// Redis's text (`processCommand`), arguments included: they are the client's own.
pub(super) fn unknown_command(args: &Args<'_>) -> String {
    let mut begin = String::new();
    for arg in args.iter().skip(1) {
        let room = MAX_QUOTED.saturating_sub(begin.len());
        if room == 0 {
            break;
        }
        begin.push('\'');
        begin.push_str(&printable(arg, room));
        begin.push_str("' ");
    }
    let name = printable(args.get(0).unwrap_or_default(), MAX_QUOTED);
    format!("ERR unknown command '{name}', with args beginning with: {begin}")
}

pub(super) fn unknown_subcommand(container: &str, subcommand: Option<&[u8]>) -> String {
    let subcommand = printable(subcommand.unwrap_or_default(), MAX_QUOTED);
    format!(
        "ERR unknown subcommand '{subcommand}'. Try {} HELP.",
        container.to_ascii_uppercase()
    )
}

/// CLIENT MAINT_NOTIFICATIONS, which redis-py 8 and node-redis send on every connection and do without when it is refused:
/// no Redis or Valkey that one can install knows it. Counted as refused, it would drown what an operator can do
/// something about.
pub(super) fn is_mere_offer(container: &str, subcommand: Option<&[u8]>) -> bool {
    container == "client"
        && subcommand.is_some_and(|subcommand| subcommand.eq_ignore_ascii_case(b"maint_notifications"))
}

pub(super) fn not_in_multi(name: &str) -> String {
    let name = name.replace('|', " ").to_ascii_uppercase();
    format!("ERR keyward: {name} is not allowed inside MULTI")
}

pub(super) fn subscribed(name: &str) -> String {
    format!(
        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    )
}

/// Client bytes for an error text: cut at the first NUL as Redis does, and never a control character.
pub(super) fn printable(bytes: &[u8], limit: usize) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let bytes = bytes.get(..limit).unwrap_or(bytes);
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Redis's bound for quoted client bytes.
const MAX_QUOTED: usize = 128;

/// A request that every Redis refuses at queue time, because there is no such command.
pub(super) const POISON: &[u8] = b"*1\r\n$15\r\nKEYWARD-REFUSED\r\n";

/// The same, and EXEC, which it makes Redis abort.
pub(super) const POISONED_EXEC: &[u8] = b"*1\r\n$15\r\nKEYWARD-REFUSED\r\n*1\r\n$4\r\nEXEC\r\n";

pub(super) const NOAUTH: &str = "NOAUTH Authentication required.";
pub(super) const EXEC_NOAUTH: &str =
    "EXECABORT Transaction discarded because of: NOAUTH Authentication required.";
pub(super) const PROXY_HEADER: &str =
    "ERR Protocol error: a PROXY header from an address that is not in proxy_protocol_from";
pub(super) const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
pub(super) const DATABASE: &str =
    "NOPERM keyward: this user may not use the database of this connection; log in on a new one";
pub(super) const MONITORING: &str = "ERR keyward: only RESET and QUIT can be used while MONITOR runs";
pub(super) const MONITOR_IN_MULTI: &str = "ERR keyward: MONITOR is not allowed inside MULTI";
pub(super) const SUBSCRIBE_IN_MULTI: &str = "ERR keyward: commands of the SUBSCRIBE family are not allowed inside MULTI (their replies could not be counted)";
pub(super) const SUBSCRIBE_WITHOUT_REPLIES: &str =
    "ERR keyward: commands of the SUBSCRIBE family are not allowed while replies are off";
pub(super) const TOO_LONG: &str = "ERR keyward: an argument of this command is too long";
pub(super) const NAME_IN_MULTI: &str =
    "ERR keyward: CLIENT SETNAME is not allowed inside MULTI while clients share connections to Redis";
pub(super) const REPLY_IN_MULTI: &str = "ERR keyward: CLIENT REPLY is not allowed inside MULTI";
