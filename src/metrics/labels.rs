//! The closed sets of words that labels are taken from.

use std::io;

/// The reason words of modules that metrics must not import. Each module owns its words as a constant next to the
/// enum; the composition root hands them in, so that every series can be made before anything has happened.
/// The default is the documented lists.
#[derive(Debug, Clone, Copy)]
pub struct Labels {
    /// Refused logins without a configured user.
    pub auth_failures: &'static [&'static str],
    /// Refused logins of a configured user.
    pub user_auth_failures: &'static [&'static str],
    /// How clients authenticate.
    pub auth_methods: &'static [&'static str],
    /// Failed TLS handshakes with clients.
    pub tls_handshake_failures: &'static [&'static str],
    /// Failed connections to an upstream.
    pub connect_failures: &'static [&'static str],
    /// Refused logins at an upstream.
    pub upstream_auth_failures: &'static [&'static str],
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            auth_failures: &[
                "no_credentials",
                "unknown_user",
                "source_not_allowed",
                "locked_out",
                "over_budget",
                "timeout",
                "malformed",
                "client_cert_missing",
                "client_cert_untrusted",
                "client_cert_expired",
                "client_cert_revoked",
                "client_cert_not_mapped",
            ],
            user_auth_failures: &[
                "bad_password",
                "user_disabled",
                "source_not_allowed",
                "client_cert_mismatch",
            ],
            auth_methods: &["password", "client_cert", "unix_user", "none"],
            tls_handshake_failures: &[
                "plaintext",
                "version",
                "cipher",
                "client_rejected_certificate",
                "timeout",
                "eof",
                "other",
            ],
            connect_failures: &[
                "dns",
                "refused",
                "timeout",
                "tls",
                "auth_refused",
                "no_password_set",
                "max_clients",
                "not_redis",
                "io",
            ],
            upstream_auth_failures: &["wrongpass", "noperm", "no_password_set", "timeout", "other"],
        }
    }
}

/// Declares an enum whose variants have label words, so that the words and the list of all variants cannot differ.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every variant, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The label word.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

labels! {
    /// What a connection to an upstream is used for.
    LaneKind {
        /// By many sessions of one user.
        Shared = "shared",
        /// By one session.
        Own = "own",
        /// By nobody at present.
        Idle = "idle",
    }
}

labels! {
    /// Which side or rule ended a client's connection.
    CloseReason {
        /// The client closed in order.
        ClientClosed = "client_closed",
        /// The client reset, or closed without the end of its TLS stream.
        ClientReset = "client_reset",
        /// The client did not speak valid RESP.
        ProtocolError = "protocol_error",
        /// PROXY header, TLS handshake or login took too long.
        AuthTimeout = "auth_timeout",
        /// Too many wrong passwords, or commands, before a login.
        AuthFailures = "auth_failures",
        /// The client sent nothing for `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// The client read nothing for `write_stall_timeout`.
        WriteStall = "write_stall",
        /// The client left too many replies unread on a lane that others wait for.
        SlowReader = "slow_reader",
        /// The upstream closed while the session depended on its connection.
        UpstreamClosed = "upstream_closed",
        /// No connection to the upstream could be made.
        UpstreamUnreachable = "upstream_unreachable",
        /// A reply came that nothing had asked for.
        Desync = "desync",
        /// The process drains.
        Drain = "drain",
        /// Not logged in, and a newer connection needed the place.
        Evicted = "evicted",
        /// The client sent QUIT.
        Quit = "quit",
        /// The client spoke HTTP.
        Http = "http",
        /// A reload removed the credential that the session had logged in with.
        CredentialRemoved = "credential_removed",
        /// A request was refused after its first bytes had reached Redis, and the session's state went with the connection.
        LateDenial = "late_denial",
        /// A limit was reached when the client logged in, or when its true source became known; or its certificate belongs
        /// to no user.
        Rejected = "rejected",
        /// The TLS handshake failed.
        Handshake = "handshake",
        /// The task ended without saying why: it panicked or was cancelled.
        Internal = "internal",
    }
}

labels! {
    /// Whose bytes.
    Side {
        /// Downstream.
        Client = "client",
        /// Redis or Valkey.
        Upstream = "upstream",
    }
}

labels! {
    /// Negotiated TLS version.
    TlsVersion {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

labels! {
    /// What a loaded certificate is for.
    CertificateRole {
        /// A listener's own.
        Listener = "listener",
        /// What client certificates are verified with.
        ClientCa = "client_ca",
        /// What the upstream's certificate is verified with.
        UpstreamCa = "upstream_ca",
        /// Shown to the upstream.
        UpstreamClient = "upstream_client",
    }
}

labels! {
    /// When an upstream closed a connection.
    UpstreamClosed {
        /// No reply was outstanding.
        Idle = "idle",
        /// Replies were outstanding, none had begun.
        Waiting = "waiting",
        /// In the middle of a reply.
        Reply = "reply",
    }
}

labels! {
    /// Why `accept` failed.
    AcceptErrorKind {
        /// Out of file descriptors, of the process or the system.
        Descriptors = "descriptors",
        /// Out of memory or buffers.
        Memory = "memory",
        /// The client was gone already; says nothing about us.
        Aborted = "aborted",
        /// Anything else.
        Other = "other",
    }
}

impl AcceptErrorKind {
    /// Whether to accept the next connection at once instead of backing off (rules F-25 and F-26).
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Aborted)
    }
}

impl From<&io::Error> for AcceptErrorKind {
    fn from(error: &io::Error) -> Self {
        // Numbers of Linux's errno.h (asm-generic), for which std has no stable kinds.
        match error.raw_os_error() {
            Some(23 | 24) => Self::Descriptors,          // ENFILE, EMFILE
            Some(12 | 105) => Self::Memory,              // ENOMEM, ENOBUFS
            Some(71 | 103 | 104 | 110) => Self::Aborted, // EPROTO, ECONNABORTED, ECONNRESET, ETIMEDOUT
            _ => Self::Other,
        }
    }
}

/// Refused after accept because no valid PROXY header came, or it came from where it must not; not a limit.
pub(super) const PROXY_HEADER: &str = "proxy_header";

/// What a label says when the value is not one of its closed set.
pub(super) const OTHER: &str = "_other";

/// Reasons of refused commands, as in Redis's ACL LOG.
pub(super) const COMMAND: &str = "command";

/// Refused commands whose first refusal must not be missed, as `cmd` says them: what empties, replaces, copies or moves the
/// data as a whole, what changes the server or loads code into it, and what an attacker looks around with first.
///
/// A refused container without or with an unknown subcommand is [`OTHER`], which is always there, and so is the refusal of a
/// key or channel under its own reason: those come from programs, in numbers, and an alert on them is about a rate.
/// Everything else appears when it is first refused.
pub(super) const ALARMING: [&str; 40] = [
    "acl|deluser",
    "acl|getuser",
    "acl|list",
    "acl|load",
    "acl|save",
    "acl|setuser",
    "acl|users",
    "bgrewriteaof",
    "bgsave",
    "client|kill",
    "client|list",
    "cluster|failover",
    "cluster|reset",
    "config|get",
    "config|resetstat",
    "config|rewrite",
    "config|set",
    "debug",
    "failover",
    "flushall",
    "flushdb",
    "function|delete",
    "function|flush",
    "function|load",
    "function|restore",
    "keys",
    "migrate",
    "module|load",
    "module|loadex",
    "module|unload",
    "monitor",
    "psync",
    "replicaof",
    "restore",
    "save",
    "script|flush",
    "shutdown",
    "slaveof",
    "swapdb",
    "sync",
];

/// Users of one listener up to which each has a series for every one of [`ALARMING`] from the beginning: 40 lines of the
/// page, some 4 KiB, for each. Beyond it the first refusal of a command makes its series.
pub(super) const MOST_ALARMING_USERS: usize = 50;

/// Error codes that Redis, Valkey and their cluster and Sentinel modes answer with; all others are [`OTHER`].
pub(super) const ERROR_CODES: [&str; 32] = [
    "ASK",
    "BUSY",
    "BUSYGROUP",
    "BUSYKEY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "ERR",
    "EXECABORT",
    "INPROG",
    "IOERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOGOODSLAVE",
    "NOGROUP",
    "NOMASTERLINK",
    "NOPERM",
    "NOPROTO",
    "NOREPLICAS",
    "NOSCRIPT",
    "NOTBUSY",
    "NOTREADY",
    "OOM",
    "READONLY",
    "SYNTAX",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
    "WRONGPASS",
    "WRONGTYPE",
];
