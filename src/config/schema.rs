//! The keys of the configuration file as data: the loader refuses what is not here, `keyward check` suggests from
//! here, and a test demands that `deploy/keyward.toml` documents every one.

/// What a value must be in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// An integer.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// An array of strings.
    List,
    /// An array of whole numbers.
    Integers,
    /// An array of names or numbers.
    Ids,
    /// A table (inline or with a header) with these keys.
    Table(&'static [Key]),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// The value is never shown.
    pub secret: bool,
}

/// One table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// As written in the file, without brackets.
    pub name: &'static str,
    /// `[[name]]` (any number of them) or `[name]` (one).
    pub many: bool,
    /// So many of them at most; more are a mistake of whatever wrote the file.
    pub most: usize,
    /// Its keys.
    pub keys: &'static [Key],
}

/// Every table that a file may have.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "server",
        many: false,
        most: 1,
        keys: SERVER,
    },
    Section {
        name: "admin",
        many: false,
        most: 1,
        keys: ADMIN,
    },
    Section {
        name: "log",
        many: false,
        most: 1,
        keys: LOG,
    },
    Section {
        name: "login",
        many: false,
        most: 1,
        keys: LOGIN,
    },
    Section {
        name: "upstream",
        many: true,
        most: 1_000,
        keys: UPSTREAM,
    },
    Section {
        name: "listener",
        many: true,
        most: 1_000,
        keys: LISTENER,
    },
    Section {
        name: "user",
        many: true,
        most: 10_000,
        keys: USER,
    },
];

/// Sections and keys that a reload cannot change: sockets, threads, series of metrics and the log are made for them. Everything
/// else is taken over by SIGHUP, and so is what the named files hold, as soon as these change.
pub const NEEDS_RESTART: &[(&str, &str)] = &[
    ("server", "workers"),
    ("admin", "address"),
    ("admin", "control_socket"),
    ("log", "format"),
    ("log", "filter"),
    ("upstream", "name"),
    ("listener", "name"),
    ("listener", "address"),
    ("listener", "socket_mode"),
    ("listener", "socket_owner"),
];

const SERVER: &[Key] = &[
    integer("workers"),
    integer("worker_busy_percent"),
    integer("max_connections"),
    integer("max_unauthenticated"),
    integer("max_connections_per_ip"),
    integer("max_tls_handshakes"),
    text("drain_timeout"),
    text("watch_interval"),
    text("connections"),
];

const ADMIN: &[Key] = &[text("address"), text("control_socket")];

const LOG: &[Key] = &[text("format"), text("filter")];

const LOGIN: &[Key] = &[
    text("timeout"),
    integer("max_failures"),
    integer("max_commands"),
    boolean("lockout"),
    integer("lockout_after"),
    text("lockout_window"),
    text("lockout_first"),
    text("lockout_max"),
    integer("max_sources"),
    integer("aggregate_after"),
    integer("max_failures_per_second"),
];

const UPSTREAM: &[Key] = &[
    text("name"),
    text("url"),
    text("username"),
    text("password_file"),
    secret("password_env", Kind::Text),
    text("ca_file"),
    text("server_name"),
    text("certificate_file"),
    text("key_file"),
    boolean("unsafe_skip_verify"),
    boolean("unsafe_plaintext"),
    text("connect_timeout"),
    text("auth_timeout"),
    integer("max_connections"),
    text("wait_timeout"),
    integer("pool_min"),
    integer("pool_max"),
    text("pool_idle_time"),
    boolean("require_least_privilege"),
];

const LISTENER: &[Key] = &[
    text("name"),
    text("address"),
    text("socket_mode"),
    text("socket_owner"),
    text("upstream"),
    Key {
        name: "tls",
        kind: Kind::Table(LISTENER_TLS),
        secret: false,
    },
    text("login"),
    text("users_file"),
    list("users"),
    text("acl"),
    text("mode"),
    boolean("learn"),
    integer("max_connections"),
    integer("max_connections_per_ip"),
    text("idle_timeout"),
    text("write_stall_timeout"),
    boolean("inline"),
    list("proxy_protocol_from"),
    boolean("unsafe_plaintext"),
    boolean("unsafe_no_login"),
];

const LISTENER_TLS: &[Key] = &[
    text("certificate_file"),
    text("key_file"),
    text("client_ca_file"),
    text("client_crl_file"),
    text("client_certificates"),
    text("min_version"),
];

const USER: &[Key] = &[
    text("name"),
    text("password_file"),
    secret("password_env", Kind::Text),
    secret("password_hashes", Kind::List),
    text("acl"),
    text("mode"),
    boolean("learn"),
    Key {
        name: "databases",
        kind: Kind::Integers,
        secret: false,
    },
    list("sources"),
    integer("max_connections"),
    list("certificate_uris"),
    list("certificate_dns_names"),
    text("certificate_common_name"),
    boolean("certificate_required"),
    Key {
        name: "unix_users",
        kind: Kind::Ids,
        secret: false,
    },
    text("upstream_username"),
    text("upstream_password_file"),
    secret("upstream_password_env", Kind::Text),
];

/// Words of other programs for a key of ours.
pub(super) const SYNONYMS: &[(&str, &str)] = &[
    ("bind", "address"),
    ("listen", "address"),
    ("cert", "certificate_file"),
    ("cert_file", "certificate_file"),
    ("tls_cert", "certificate_file"),
    ("key", "key_file"),
    ("user", "username"),
    ("ca", "ca_file"),
    ("client_ca", "client_ca_file"),
    ("maxclients", "max_connections"),
    ("timeout", "idle_timeout"),
    ("rules", "acl"),
    ("password_hash", "password_hashes"),
    ("certificate_uri", "certificate_uris"),
    ("certificate_dns", "certificate_dns_names"),
    ("certificate_cn", "certificate_common_name"),
    ("unix_uids", "unix_users"),
    ("insecure_skip_verify", "unsafe_skip_verify"),
    ("allow_insecure_upstream", "unsafe_plaintext"),
    ("insecure_no_auth", "unsafe_no_login"),
    ("auth", "login"),
    ("host", "url"),
    ("listeners", "listener"),
    ("upstreams", "upstream"),
    ("logging", "log"),
    ("level", "filter"),
];

const fn text(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Text,
        secret: false,
    }
}

const fn integer(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Integer,
        secret: false,
    }
}

const fn boolean(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Boolean,
        secret: false,
    }
}

const fn list(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::List,
        secret: false,
    }
}

const fn secret(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        secret: true,
    }
}
